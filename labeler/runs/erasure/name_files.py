"""Files that name images, for deletion requests: a name per line, or a list in JSON, YAML or a column of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from labeler import plain_json, plain_yaml, storage
from labeler.errors import Refused

_COLUMNS = ("file_name", "image_key", "digest")
_ADVICE = "give a text file with one image per line: its file name, key or digest"
_NOT_LISTS = (".jsonl", ".parquet", ".tar", ".zip", ".gz", ".xml", ".html", ".xlsx")
_MAX_JSON_BYTES = 256 << 20


def read_names(uri: str) -> list[str]:
    """The file names, keys or digests of images in a file, each once.

    Files are text with one name per line, unless they end in .json, .yaml or .yml (a list of names), or in .csv or .tsv
    (a table with one of the columns file_name, image_key and digest).

    Raises:
        Refused: if it is not there, is not a UTF-8 text, is another kind of file, or has no name.
    """
    shown, suffix = storage.redact(uri), _suffix(uri)
    if suffix in _NOT_LISTS:
        raise Refused(f"{shown}: a {suffix} file is not a list of images; {_ADVICE}")
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except storage.StorageError as error:
        raise Refused(f"the list of images cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise Refused(f"{shown} is not a UTF-8 text; {_ADVICE}") from None
    try:
        names = _READERS.get(suffix, _lines)(text)
    except ValueError as error:  # plain_json's and plain_yaml's are among them
        raise Refused(f"{shown}: {error}; {_ADVICE}") from None
    names = list(dict.fromkeys(name for name in names if name.strip()))
    if not names:
        raise Refused(f"{shown} names no image; {_ADVICE}")
    return names


def _suffix(uri: str) -> str:
    name = storage.basename(uri)
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""


def _lines(text: str) -> Sequence[str]:
    return [line.rstrip("\r") for line in text.split("\n")]


def _json(text: str) -> Sequence[str]:
    return _list(plain_json.parse(text.encode(), max_bytes=_MAX_JSON_BYTES))


def _yaml(text: str) -> Sequence[str]:
    return _list(plain_yaml.parse(text)[0])


def _list(values: object) -> Sequence[str]:
    if not isinstance(values, list):
        raise ValueError("it is not a list of names")
    other = next((value for value in values if not isinstance(value, str)), None)
    if other is not None:
        raise ValueError(f"{str(other)[:80]!r} in its list is not a text (put names that are numbers in quotes)")
    return values


def _table(delimiter: str) -> Callable[[str], Sequence[str]]:
    def read(text: str) -> Sequence[str]:
        try:
            rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            columns = [name for name in rows.fieldnames or () if name in _COLUMNS]
            if len(columns) != 1:
                found = f"has {' and '.join(columns)}" if columns else "has none"
                raise ValueError(f"a table needs one of the columns {', '.join(_COLUMNS)}, and it {found}")
            return [row[columns[0]] or "" for row in rows]
        except csv.Error as error:
            raise ValueError(f"it is not a table: {error}") from None

    return read


_READERS: dict[str, Callable[[str], Sequence[str]]] = {
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}

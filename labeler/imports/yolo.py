"""A YOLO data set as labels: data.yaml, and a text file of boxes per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from labeler import plain_yaml, storage
from labeler.ahead import Fetch, in_order
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.imports.digesting import digest_of_files
from labeler.imports.labels import ImportedLabels, Labels, add_named
from labeler.plain_json import parse

_SPLITS = ("train", "val", "test")
_DATA = "data.yaml"


def read_yolo(uri: str) -> Labels:
    """Boxes of the label files that data.yaml leads to; an empty file is an image without boxes.

    Images without a label file are images that the data set says nothing of. A sixth number of a line is its score.
    In a data set that `labeler export` wrote, images have their names from its sources-*.jsonl.

    Raises:
        Refused: there is no data.yaml, or it is not one; or a line is not a box.
        StorageError: a file cannot be read.
    """
    if not uri.endswith((".yaml", ".yml")):
        uri = storage.join(uri, _DATA)
    shown, folder = storage.redact(uri), storage.parent(uri)
    try:
        data = storage.read_bytes(uri)
        values: Any = plain_yaml.parse(data.decode())[0]
    except (storage.StorageError, UnicodeDecodeError, plain_yaml.NotPlainYaml) as error:
        raise Refused(f"{shown} is not a YOLO data.yaml: {error}") from None
    names, ids = _names(values, shown)
    entries = ImportedLabels()
    add_named(entries, names, ids)
    sources = _sources(folder)
    digests = [(_DATA, digest_of(data))]
    files = [file for split in _SPLITS for file in _label_files(folder, values, split, shown)]
    jobs: Iterator[Fetch[bytes] | bytes] = (Fetch(0, partial(storage.read_bytes, uri)) for _, uri in files)
    for number, ((stem, file), text) in enumerate(zip(files, in_order(jobs), strict=True)):
        name, digest = sources.get(stem, (stem, None))
        entries.add("images", {"id": number, "file_name": name, "digest": digest})
        digests.append((stem, digest_of(text)))
        _add_lines(entries, number, text, ids, storage.redact(file))
    if not files:
        raise Refused(f"{shown}: no label file in its folders; images/ and labels/ are expected beside each other")
    return entries.labels(shown, digest_of_files(digests), relative=True, stems=True)


def _names(values: Any, shown: str) -> tuple[list[str], list[int]]:
    """(names of the classes, ids)."""
    found = values.get("names") if isinstance(values, Mapping) else None
    pairs = found.items() if isinstance(found, Mapping) else enumerate(found if isinstance(found, list) else [])
    named = {str(place): name for place, name in pairs}
    places = list(map(str, range(len(named))))
    if not named or named.keys() != set(places) or not all(isinstance(name, str) for name in named.values()):
        raise Refused(f"{shown} is not a YOLO data.yaml: `names` must be a list of names, or 0: name, 1: name, ...")
    ids = values.get("category_ids")
    return [named[place] for place in places], ids if _are_ids(ids, len(named)) else list(range(len(named)))


def _are_ids(ids: Any, count: int) -> bool:
    """Return whether they are those that `labeler export` writes beside the names."""
    return isinstance(ids, list) and len(set(map(str, ids))) == count and all(type(id_) is int for id_ in ids)


def _label_files(folder: str, values: Mapping[str, Any], split: str, shown: str) -> Iterator[tuple[str, str]]:
    """(name of the image without extension, URI) of a split's label files."""
    given = values.get(split) or []
    for images in [given] if isinstance(given, str) else given:
        if not isinstance(images, str) or "images" not in images.split("/"):
            raise Refused(f"{shown}: {split} must be a folder with images/ in its path, got {images!r}")
        base = str(values.get("path") or ".")
        root = folder if base == "." else base if "://" in base or base.startswith("/") else storage.join(folder, base)
        before, _, below = images.rpartition("images")
        place = f"{before.removeprefix('./')}labels{below}"
        labels, files = storage.join(root, place), []
        if place.startswith("../"):  # beside the folder of data.yaml, or in it, as Roboflow means it
            place = place.removeprefix("../")
            labels = storage.join(storage.parent(root), place)
            files = list(storage.list_objects(labels))
            labels = labels if files else storage.join(root, place)
        for info in sorted(files or storage.list_objects(labels), key=lambda info: info.uri):
            if info.uri.endswith(".txt"):
                yield f"{below.strip('/')}/{info.uri[len(labels) :].strip('/')}"[:-4].lstrip("/"), info.uri


def _sources(folder: str) -> dict[str, tuple[str, str | None]]:
    """Name without extension, below images/ -> (name of the image in the run, its digest)."""
    found: dict[str, tuple[str, str | None]] = {}
    for info in storage.list_objects(folder, recursive=False):
        if not storage.basename(info.uri).startswith("sources-"):
            continue
        for line in storage.read_bytes(info.uri).splitlines():
            try:
                source = parse(line)
                stem = source["file"].removeprefix("images/").rpartition(".")[0]
                found[stem] = source["file_name"].rpartition(".")[0], source.get("digest")
            except (ValueError, LookupError, TypeError, AttributeError):
                raise Refused(f"{storage.redact(info.uri)} is not as `labeler export` wrote it; restore it") from None
    return found


def _add_lines(entries: ImportedLabels, image: int, text: bytes, ids: Sequence[int], shown: str) -> None:
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.split():
            continue
        try:
            place, *sides = map(float, line.split())
            category = ids[int(place)] if place == int(place) and 0 <= place < len(ids) else None
        except (ValueError, OverflowError):
            sides, category = [], None
        if category is None or len(sides) not in (4, 5):
            entries.problems.append(f"{shown}, line {number}: expected a class below {len(ids)} and 4 numbers (and a "
                                    f"score), got {line[:60]!a}")  # fmt: skip
            continue
        (x, y, width, height), score = sides[:4], sides[4] if len(sides) == 5 else None
        box = [x - width / 2, y - height / 2, width, height]
        entries.add("annotations", {"image_id": image, "category_id": category, "bbox": box, "score": score})

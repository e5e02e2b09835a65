"""Files that are digested while they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from labeler import storage
from labeler.digests import canonical_json, digest_of, new_digest
from labeler.errors import Refused
from labeler.json_stream import JsonStream, Readable
from labeler.plain_json import NotPlainJson


class Digesting:
    """A stream, and the digest of all that was read of it."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._digest = stream, new_digest()

    def read(self, n: int, /) -> bytes:
        data = self._stream.read(n)
        self._digest.update(data)
        return data

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def open_json(uri: str, *, is_list: bool, advice: str) -> Iterator[tuple[JsonStream, Digesting]]:
    """A JSON file to stream, and its digest once it is at its end.

    Args:
        is_list: it must be a list; else an object.
        advice: what to do about another file.

    Raises:
        Refused: it is not JSON, or not such a document.
        StorageError: it cannot be read.
    """
    shown = storage.redact(uri)
    try:
        with storage.open_stream(uri) as stream:
            digesting = Digesting(stream)
            document = JsonStream(digesting)
            if document.is_list() != is_list:
                raise Refused(f"{shown} is {'not a list' if is_list else 'a list, not an object'}; {advice}")
            yield document, digesting
    except NotPlainJson as error:
        raise Refused(f"{shown} is not JSON: {error}; {advice}") from None


def digest_of_files(files: Iterable[tuple[str, str]]) -> str:
    """One digest of (name, digest) pairs."""
    return digest_of(canonical_json(sorted(map(list, files))))

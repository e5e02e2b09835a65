"""Streams that are digested while they are read."""

from __future__ import annotations

from collections.abc import Iterable

from labeler.digests import canonical_json, digest_of, new_digest
from labeler.json_stream import Readable


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


def digest_of_files(files: Iterable[tuple[str, str]]) -> str:
    """One digest of (name, digest) pairs."""
    return digest_of(canonical_json(sorted(map(list, files))))

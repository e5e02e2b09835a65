"""What storage deals in: objects, bodies of objects, and what each backend must offer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

OnSkipped = Callable[[str, str], None]  # (URI of an entry that cannot be listed, short reason)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object.

    Attributes:
        uri: its full URI, in the form of the URI that was asked for.
        size: bytes.
        etag: changes whenever the bytes do; None where the backend has nothing of the kind.
        modified: when it was written by the storage's own clock, seconds since 1970; None where that is not known.
    """

    uri: str
    size: int
    etag: str | None
    modified: float | None = field(default=None, compare=False)


def bare_etag(etag: str | None) -> str | None:
    """An ETag header without its quotes; gateways that compress make them weak."""
    return etag.removeprefix("W/").strip('"') if etag else None


class Body(Protocol):
    """An open object, being read from some offset on. `read` may raise Transient; the stream above reopens."""

    size: int  # of the whole object, bytes
    etag: str | None
    is_whole: bool  # the server sends all bytes whatever range is asked for: reading on is cheaper than reopening

    def read(self, n: int) -> bytes:
        """At most `n` bytes; b"" at the end of the body, whether that is where it should end or not."""

    def close(self) -> None: ...


class Store(Protocol):
    """One backend. Reading is a single attempt (the door retries); writing retries by itself."""

    reopen_gap: int  # bytes; a longer skip is cheaper by a new request than by reading through

    def list_objects(
        self, uri_prefix: str, *, recursive: bool, on_skipped: OnSkipped | None = None
    ) -> Iterator[ObjectInfo]: ...

    def head(self, uri: str) -> ObjectInfo | None: ...

    def open_body(self, uri: str, start: int, length: int | None, etag: str | None) -> Body: ...

    def put(self, uri: str, data: bytes) -> None: ...

    def put_if_absent(self, uri: str, data: bytes, *, single_writer: bool) -> bool: ...

    def put_file(self, uri: str, local_path: str | os.PathLike[str]) -> None: ...

    def delete(self, uri: str) -> None: ...

    def remove_abandoned(self, uri: str) -> None:
        """Remove what killed processes left of their writes to `uri`, or below it, as far as that can be done."""

    def missing_folders(self, uri: str) -> list[str]:
        """Folders that a put of `uri` would bring into being, outermost first; [] where folders are not real."""

    def remove_empty_folders(self, uris: list[str]) -> None: ...

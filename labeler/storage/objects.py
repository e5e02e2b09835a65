"""What storage deals in: objects, bodies of objects, and what each backend must offer."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
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
    """Return an ETag header without its quotes; gateways that compress make them weak."""
    return etag.removeprefix("W/").strip('"') if etag else None


class Body(Protocol):
    """An open object, being read from some offset on. `read` may raise Transient; the stream above reopens."""

    size: int  # of the whole object, bytes
    etag: str | None
    is_whole: bool  # the server sends all bytes whatever range is asked for: reading on is cheaper than reopening

    def read(self, n: int) -> bytes:
        """At most `n` bytes; b"" at the end of the body, whether that is where it should end or not."""

    def close(self) -> None:
        """Give the connection or file back."""


class Store(ABC):
    """One backend. Reading is a single attempt (`storage` retries); writing retries by itself."""

    reopen_gap: int  # bytes; a longer skip is cheaper by a new request than by reading through

    @abstractmethod
    def list_objects(
        self, uri_prefix: str, *, recursive: bool, on_skipped: OnSkipped | None = None
    ) -> Iterator[ObjectInfo]:
        """As `storage.list_objects`; retries by itself."""

    def list_split(self, uri_prefix: str, beginnings: Sequence[str]) -> Iterator[ObjectInfo]:
        """As `storage.list_split`; here in one listing of everything."""
        return self.list_objects(uri_prefix, recursive=True)

    @abstractmethod
    def head(self, uri: str) -> ObjectInfo | None:
        """As `storage.head`."""

    @abstractmethod
    def open_body(self, uri: str, start: int, length: int | None, etag: str | None) -> Body:
        """Return the bytes [start, start + length) of an object, or from `start` on; InputChanged
        for another `etag`.
        """

    @abstractmethod
    def put(self, uri: str, data: bytes) -> None:
        """As `storage.put`."""

    @abstractmethod
    def put_if_absent(self, uri: str, data: bytes, *, single_writer: bool) -> bool:
        """As `storage.put_if_absent`; raises Unconditional where storage has none and not `single_writer`."""

    @abstractmethod
    def put_file(self, uri: str, local_path: str | os.PathLike[str]) -> None:
        """As `storage.put_file`."""

    @abstractmethod
    def delete(self, uri: str) -> None:
        """As `storage.delete`."""

    def remove_abandoned(self, uri: str) -> None:
        """Remove what killed processes left of their writes to `uri`, or below it, as far as that can be done."""
        return None  # on object storage nothing is seen of a write before it is whole

    def missing_folders(self, uri: str) -> list[str]:
        """Return folders that a put of `uri` would bring into being, outermost first; [] where folders are not real."""
        return []

    def remove_empty_folders(self, uris: list[str]) -> None:
        """Remove those of these folders that are empty, innermost first."""
        return None

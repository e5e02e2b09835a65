"""Fetch the small objects that are images each by itself."""

from __future__ import annotations

from labeler import storage
from labeler.shards.units import Item, Placed, too_large


def held(placed: Placed) -> int:
    """Return bytes that wait in memory with an image."""
    return 0 if placed.item is None else len(placed.item.data or b"")


def fetch(item: Item, *, size: int | None, etag: str | None, max_bytes: int) -> Item:
    """`item` with the bytes of the object at its URI, or with the reason why there are none.

    Raises:
        InputChanged: the object has another size or ETag than planned.
        StorageError: storage does not answer, after retries: a reason to try the shard again, not to give up the image.
    """
    try:
        with storage.open_stream(item.uri, size=size, etag=etag) as stream:
            length = stream.size
            if length > max_bytes:
                return _with(item, length, None, too_large(length, max_bytes))
            return _with(item, length, stream.read(length), None)
    except storage.Unreadable as error:
        return _with(item, None, None, error.reason)


def _with(item: Item, length: int | None, data: bytes | None, error: str | None) -> Item:
    offset = None if length is None else 0
    return Item(item.key, item.index, item.uri, offset, length, data, error, item.kept)

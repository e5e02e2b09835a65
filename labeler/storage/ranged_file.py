"""A seekable read-only file over one object: ranged reads with a little read-ahead, for readers that need to seek."""

from __future__ import annotations

import io
from collections import OrderedDict

from labeler import storage

BLOCK_BYTES = 4 << 20
KEPT_BLOCKS = 4  # several columns are read side by side, each at its own place


class RangedFile(io.RawIOBase):
    """The bytes of an object; each range is verified against the ETag.

    Args:
        size: bytes of the object.
        etag: what it was planned with; None is not verified.
    """

    def __init__(self, uri: str, size: int, etag: str | None) -> None:
        super().__init__()
        self._uri, self._size, self._etag = uri, size, etag
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, n: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        n = left if n is None or n < 0 else min(n, left)
        if n > BLOCK_BYTES:
            data = self._range(self._at, n)
        else:
            pieces = []
            at, missing = self._at, n
            while missing:
                block, inside = divmod(at, BLOCK_BYTES)
                piece = self._block(block)[inside : inside + missing]
                pieces.append(piece)
                at, missing = at + len(piece), missing - len(piece)
            data = b"".join(pieces)
        self._at += n
        return data

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            self._blocks[number] = self._range(start, min(BLOCK_BYTES, self._size - start))
            if len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _range(self, start: int, length: int) -> bytes:
        return storage.read_bytes(self._uri, start=start, length=length, etag=self._etag, size=self._size)

"""A number of bytes that threads share: who needs some waits until they are free."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# For decoding: eight photographs of 12 megapixels take 0.9 GB as JPEG and 1.6 GB as WebP, that few images ever wait.
DECODE_BYTES = 2 << 30
MAX_PIXELS = 178_956_970  # of an image, where Pillow calls it a bomb: 1.5 GB while decoding, 3 GB as WebP


class ByteBudget:
    """Leases of bytes, in the order in which they are asked for.

    What is larger than the whole budget waits until nothing else is leased, and is let through then. Nobody waits who
    holds a lease, so there is no deadlock.
    """

    def __init__(self, limit: int = DECODE_BYTES) -> None:
        self._limit, self._leased = limit, 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """Yield what takes a number of bytes, once, when it is known; they are given back at the end."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if not held:
                self._take(size)
                held = size

        try:
            yield take
        finally:
            with self._changed:
                self._leased -= held
                self._changed.notify_all()

    def _take(self, size: int) -> None:
        me = object()
        with self._changed:
            self._waiting.append(me)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is me and self._fits(size))
                self._leased += size
            finally:
                self._waiting.remove(me)
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._leased or self._leased + size <= self._limit

"""Single images and label files put onto storage by threads, with a bound on what waits."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from labeler import storage
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage

THREADS = 16
_WAITING = 64


class Uploads:
    """Owns the threads that write below `target`; `finish` raises what any of them raised."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="put")
        self._waiting: deque[Future[None]] = deque()

    def put(self, relative: str, data: bytes) -> None:
        """Write one object, soon. Replacing is harmless: the same export gives the same bytes."""
        self._waiting.append(self._pool.submit(storage.put, storage.join(self._target, relative), data))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def put_image(self, image: ChosenImage, pixels: Pixels) -> str:
        """Write an image's copy below images/; returns its file name there, which is unlike that of any other row."""
        file_name = f"{image.row_id}.{pixels.extension}"
        self.put(f"images/{file_name}", pixels.data)
        return file_name

    def finish(self) -> None:
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

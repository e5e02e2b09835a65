"""Which of a unit's images go to the detector together: those of one shape, because none is ever padded.

Of 256 photographs of COCO and LVIS, eight at a time in the order they come in fill 1.3 of eight places in a forward
pass on the mean; waiting for their like, 3.7 (`python -m benchmarks.batching`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

BATCHES_WAITING = 8  # images that wait for their like, in batches
LEAST_WAITING = 128  # and at least that many: with eight a batch no more than that is gained by a whole unit of 256
BYTES_WAITING = 512 << 20  # of their pixels: 160 images at 800 x 1333
_LEAST_BATCH, _MOST_BATCH = 8, 32


def images_together(per_forward: int) -> int:
    """Return how many images of one shape to hand to a detector at once.

    Whole forward passes, so that none is left half empty; but 8 images at least, so that decoding is far enough ahead,
    and 32 at most.

    Args:
        per_forward: images that share a forward pass.
    """
    return min(_MOST_BATCH, per_forward * -(-_LEAST_BATCH // per_forward))


def group_of(prepared: Any) -> Any:
    """Equal for images that can go to the detector together; a detector of the user's own may only have shapes."""
    return getattr(prepared, "group", getattr(prepared, "shape", None))


def bytes_of(*prepared: Any) -> int:
    """Of the pixels of what detectors and segmenters have made of an image; 0 for what is not known."""
    return sum(getattr(getattr(each, "pixels", each), "nbytes", 0) for each in prepared)


class ShapePool(Generic[T]):
    """A collector of images by shape that returns batches, each of one shape.

    What comes out depends only on what went in and in which order, never on time.
    """

    def __init__(self, batch: int, *, most: int | None = None, most_bytes: int = BYTES_WAITING) -> None:
        """
        Args:
            batch: images that go together; 1 waits for nobody.
            most: images that wait at most; None: eight batches, and 128 at least.
            most_bytes: that they may take; one image alone may take more.
        """
        self._batch, self._most_bytes = batch, most_bytes
        self._most = max(LEAST_WAITING, batch * BATCHES_WAITING) if most is None else most
        self._waiting: dict[Hashable, list[tuple[T, int]]] = {}  # in the order of each group's first image
        self._count = self._bytes = 0

    def add(self, image: T, shape: Hashable, size: int = 0) -> list[list[T]]:
        """Return the batches to go now: the one that this image fills, and the longest waiting ones while too many
        wait.

        Args:
            size: bytes that the image takes while it waits.
        """
        group = self._waiting.setdefault(shape, [])
        group.append((image, size))
        self._count += 1
        self._bytes += size
        batches = [self._take(shape)] if len(group) == self._batch else []
        while self._count >= self._most or self._bytes > self._most_bytes:
            batches.append(self._take(next(iter(self._waiting))))
        return batches

    def rest(self) -> Iterator[list[T]]:
        """Yield all that still waits, one shape after the other."""
        while self._waiting:
            yield self._take(next(iter(self._waiting)))

    def _take(self, shape: Hashable) -> list[T]:
        taken = self._waiting.pop(shape)
        self._count -= len(taken)
        self._bytes -= sum(size for _, size in taken)
        return [image for image, _ in taken]

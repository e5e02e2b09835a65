"""One unit's forward passes on a detector that units share: one is under way while the host makes rows of the one
before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from labeler.labeling.detector import Begun, UnitDetector
from labeler.labels.unit_work import UnitWork


class HasPrepared(Protocol):
    @property
    def prepared(self) -> Any:
        """Return what the detector takes."""


Image = TypeVar("Image", bound=HasPrepared)


class Forwards:
    """A unit keeps the detector from batch to batch, until it is closed.

    Units that took turns batch by batch would all be finished late, and a crash would cost all of them.

    Args:
        detector: None where every image comes with its result.
        images_per_batch: images that are put together at most; None: as many as the detector takes.
        on_first: called once, before the first image is handed over; what it raises ends the unit.

    Attributes:
        seconds: spent on starting forward passes and waiting for them.
        work: passes, batches and halvings; nothing else.
    """

    def __init__(
        self,
        detector: UnitDetector | None,
        detector_lock: threading.Lock,
        on_first: Callable[[], None] | None = None,
        *,
        images_per_batch: int | None = None,
    ) -> None:
        self.seconds, self.work = 0.0, UnitWork()
        self._on_first = on_first
        self._detector, self._lock, self._most = detector, detector_lock, images_per_batch
        self._held = False
        self._under_way: tuple[Sequence[Any], Callable[[], Sequence[Any]]] | None = None

    def begin(self, batch: Sequence[Image]) -> Iterator[tuple[Image, Any]]:
        """Begin a batch; gives each image of what was under way until then, with its result."""
        if not self._held:
            self._lock.acquire()
            self._held = True
            on_first, self._on_first = self._on_first, None
            if on_first:
                on_first()
        prepared = [image.prepared for image in batch]
        begun: Begun = (
            self._detector.begin(prepared) if self._detector else iter([(range(len(batch)), lambda: prepared)])
        )
        halvings = self._detector.memory_halvings if self._detector else 0
        start = time.perf_counter()
        for places, results in begun:
            self.seconds += time.perf_counter() - start
            self._count([prepared[place] for place in places])
            yield from self.rest()
            self._under_way = [batch[place] for place in places], results
            start = time.perf_counter()
        self.seconds += time.perf_counter() - start
        if self._detector:  # others wait for the lock, so these halvings are of this unit
            self.work.memory_halvings += self._detector.memory_halvings - halvings

    def _count(self, images: Sequence[Any]) -> None:
        if self._detector is None:
            return
        room, count = self._detector.room_for(images[0]), len(images)
        self.work.forwards += 1
        self.work.filled += count
        self.work.places += max(count, room if self._most is None else min(room, self._most))
        self.work.passes += count * self._detector.passes_of(images[0])

    def rest(self) -> Iterator[tuple[Any, Any]]:
        """Yield each image of what is still under way, with its result."""
        if self._under_way is not None:
            (images, wait), self._under_way = self._under_way, None
            start = time.perf_counter()
            results = wait()
            self.seconds += time.perf_counter() - start
            yield from zip(images, results, strict=True)

    def close(self) -> None:
        """Let another unit continue. Callers that want what is under way take the `rest` first."""
        if self._held:
            self._held = False
            self._lock.release()

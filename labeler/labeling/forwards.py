"""One unit's forwards on a detector that units share: one is under way while the host makes rows of the one before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from labeler.labeling.detector import Begun, Detector


class HasPrepared(Protocol):
    @property
    def prepared(self) -> Any:
        """What the detector takes."""


Image = TypeVar("Image", bound=HasPrepared)


class Forwards:
    """A unit keeps the detector from batch to batch, until it is closed.

    Units that took turns batch by batch would all be finished late, and a crash would cost all of them.

    Args:
        detector: None where every image comes with its result.
        on_first: called once, before the first image is handed over; what it raises ends the unit.

    Attributes:
        seconds: spent on starting forwards and waiting for them.
    """

    def __init__(
        self, detector: Detector | None, detector_lock: threading.Lock, on_first: Callable[[], None] | None = None
    ) -> None:
        self.seconds = 0.0
        self._on_first = on_first
        self._detector, self._lock = detector, detector_lock
        self._held = False
        self._under_way: tuple[Sequence[Any], Callable[[], Sequence[Any]]] | None = None

    def begin(self, batch: Sequence[Image]) -> Iterator[tuple[Image, Any]]:
        """Begins a batch; gives each image of what was under way until then, with its result."""
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
        start = time.perf_counter()
        for places, results in begun:
            self.seconds += time.perf_counter() - start
            yield from self.rest()
            self._under_way = [batch[place] for place in places], results
            start = time.perf_counter()
        self.seconds += time.perf_counter() - start

    def rest(self) -> Iterator[tuple[Any, Any]]:
        """Each image of what is still under way, with its result."""
        if self._under_way is not None:
            (images, wait), self._under_way = self._under_way, None
            start = time.perf_counter()
            results = wait()
            self.seconds += time.perf_counter() - start
            yield from zip(images, results, strict=True)

    def close(self) -> None:
        """Lets another unit go on; whoever wants what is under way takes the `rest` first."""
        if self._held:
            self._held = False
            self._lock.release()

"""Label one unit's images: decode beside the detector, detect, and make exactly one row of each image.

No Ray here: the pipeline calls it inside its actors, `preview`, `label --dry-run` and benchmarks call it directly.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from labeler import images
from labeler.detections import Detections
from labeler.records import Row
from labeler.shards import Item


class Detector(Protocol):
    """What a detector family offers to the labeling of units."""

    @property
    def description(self) -> dict[str, str]:
        """Engine, dtype and device really used; goes into each unit's file metadata."""

    def prepare(self, image_rgb: Any, full_size: tuple[int, int] | None = None) -> Any:
        """Resize one (h, w, 3) uint8 upright RGB image for the model; thread-safe, on the CPU.

        A detector with a method `least_shape` (as `images.decode` takes it) gets large JPEGs decoded smaller, with the
        (height, width) they have in full, the frame of its boxes.
        """

    def detect_prepared(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Detections, or the error that says why one image has none, for each prepared image."""


@dataclass
class StageSeconds:
    """Seconds spent per stage of one unit; decode sums over threads."""

    decode: float = 0.0
    detect: float = 0.0
    write: float = 0.0

    def add(self, other: StageSeconds) -> None:
        self.decode, self.detect, self.write = (
            self.decode + other.decode,
            self.detect + other.detect,
            self.write + other.write,
        )


@dataclass(frozen=True)
class _Ready:
    row: Row  # everything but status and detections
    prepared: Any


class _Turn:
    """One unit's hold on the detector, kept from batch to batch while the next one is ready.

    Units that took turns batch by batch would all be finished late, and a crash would cost all of them.
    """

    def __init__(self, forward: threading.Lock) -> None:
        self._forward = forward
        self._held = False

    def take(self) -> None:
        if not self._held:
            self._forward.acquire()
            self._held = True

    def close(self) -> None:
        if self._held:
            self._held = False
            self._forward.release()


class _InTurn(Executor):
    """Does everything at once and in the caller's thread, so that what takes how long can be told apart."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **options))
        return future


class UnitLabeler:
    """Owns a detector, its decode threads, and the lock that lets one forward run at a time.

    Args:
        decode_threads: threads that decode and resize beside the detector; 0 decodes in the caller's, in between.
        images_per_batch: images handed to the detector at once; about two such batches are decoded ahead.
        max_pixels: larger images become rows with status `too_large`.
    """

    def __init__(
        self, detector: Detector, *, decode_threads: int, images_per_batch: int, max_pixels: int = images.MAX_PIXELS
    ) -> None:
        self.detector = detector
        self._images_per_batch = images_per_batch
        self._max_pixels = max_pixels
        self._least_shape: images.LeastShape | None = getattr(detector, "least_shape", None)
        self._decoders = (
            ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") if decode_threads else _InTurn()
        )
        self._forward = threading.Lock()

    def label(self, shard_id: str, items: Sequence[Item], keep: Sequence[str] = ()) -> tuple[list[Row], StageSeconds]:
        """One row for each item, in item order, and where the time went."""
        seconds = StageSeconds()
        rows: list[Row] = []
        batch: list[_Ready] = []
        with closing(_Turn(self._forward)) as turn:
            for outcome, took in self._decoded_ahead(shard_id, items, keep, turn):
                seconds.decode += took
                if isinstance(outcome, Row):
                    rows.append(outcome)
                    continue
                batch.append(outcome)
                if len(batch) == self._images_per_batch:
                    rows += self._detect(batch, seconds, turn)
                    batch = []
            rows += self._detect(batch, seconds, turn)
        rows.sort(key=lambda row: row.index)
        return rows, seconds

    def _decoded_ahead(
        self, shard_id: str, items: Sequence[Item], keep: Sequence[str], turn: _Turn
    ) -> Iterator[tuple[_Ready | Row, float]]:
        ahead = 2 * self._images_per_batch  # a decoded unit of 12 MP images would be 9 GB: stay close to the detector
        waiting: deque[Future[tuple[_Ready | Row, float]]] = deque()
        source = iter(items)
        for item in islice(source, ahead):
            waiting.append(self._decoders.submit(self._prepare, shard_id, item, keep))
        while waiting:
            if not waiting[0].done():
                turn.close()  # nothing to detect on just now: let another unit go on
            outcome = waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(self._decoders.submit(self._prepare, shard_id, item, keep))
            yield outcome

    def _prepare(self, shard_id: str, item: Item, keep: Sequence[str]) -> tuple[_Ready | Row, float]:
        start = time.perf_counter()
        row = undetected_row(shard_id, item, keep)
        if item.data is None or item.error is not None:
            return replace(row, error=item.error or "no data"), time.perf_counter() - start
        try:
            image = images.decode(item.data, max_pixels=self._max_pixels, least_shape=self._least_shape)
        except images.ImageError as error:
            return replace(row, status=error.status, error=str(error)), time.perf_counter() - start
        row = replace(
            row,
            width=image.width,
            height=image.height,
            orientation=image.orientation,
            phash=images.phash(image.pixels),
        )
        full_size = () if image.full_size is None else (image.full_size,)
        return _Ready(row, self.detector.prepare(image.pixels, *full_size)), time.perf_counter() - start

    def _detect(self, batch: Sequence[_Ready], seconds: StageSeconds, turn: _Turn) -> list[Row]:
        if not batch:
            return []
        turn.take()
        start = time.perf_counter()
        found = self.detector.detect_prepared([ready.prepared for ready in batch])
        seconds.detect += time.perf_counter() - start
        return [_finish(ready.row, result) for ready, result in zip(batch, found, strict=True)]


def undetected_row(shard_id: str, item: Item, keep: Sequence[str]) -> Row:
    """What is known of an image before it is decoded; its status is the read error, should there be one."""
    return Row(
        image_key=item.key,
        shard_id=shard_id,
        index=item.index,
        uri=item.uri,
        status="read_error",
        offset=item.offset,
        length=item.length,
        error=item.error,
        digest=None if item.data is None or item.error is not None else images.digest(item.data),
        kept={name: item.kept.get(name) for name in keep},
    )


def _finish(row: Row, result: Any) -> Row:
    if not isinstance(result, Detections):
        return replace(row, status="detect_error", error=str(result))
    return replace(row, status="labeled" if len(result) else "empty", detections=result)

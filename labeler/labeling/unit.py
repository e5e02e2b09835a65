"""Label one unit's images: decode beside the detector, detect, segment, and make exactly one row of each image.

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
from labeler.byte_budget import DECODE_BYTES, ByteBudget
from labeler.digests import digest_of
from labeler.labeling.batching import BYTES_WAITING, ShapePool, bytes_of, images_together
from labeler.labeling.detector import Detector
from labeler.labeling.forwards import Forwards
from labeler.labeling.watchdog import Watchdog
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.labels.unit_work import UnitWork
from labeler.shards import Item


class Segmenter(Protocol):
    """What makes masks for an image's boxes."""

    @property
    def description(self) -> dict[str, str]:
        """What is really used; goes into each unit's file metadata beside the detector's."""

    def prepare(self, image_rgb: Any) -> Any:
        """Resize one (h, w, 3) uint8 upright RGB image for the model; thread-safe, on the CPU."""

    @property
    def memory_halvings(self) -> int:
        """How often a batch was halved so far because the GPU's memory ran out."""

    def sketch(self, image: Any, detections: Detections) -> Any:
        """The model's part of the work, for one prepared image."""

    def draw(self, sketch: Any) -> Any:
        """The rest: an object with `detections`, and how many masks were `lost`; thread-safe, on the CPU."""


_UNITS_AT_ONCE = 4  # of a worker's at most: together they hold no more decoded images than it may decode at once
MASKS_LOST = "some masks came out not finite; their boxes have none"


@dataclass(frozen=True)
class _Ready:
    row: Row  # everything but status and detections
    prepared: Any
    for_masks: Any = None


class _InTurn(Executor):
    """Does everything at once and in the caller's thread, so that what takes how long can be told apart."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **options))
        return future


def _images_per_batch(detector: Detector | None) -> int:
    """By the device that the detector ended up on: on a CPU one, on a GPU whole forwards.

    One where no two share a forward: then waiting for images of the same shape gains nothing.
    """
    if detector is None or detector.description.get("device", "cpu") == "cpu" or detector.images_per_forward == 1:
        return 1
    return images_together(detector.images_per_forward)


class UnitLabeler:
    """Owns a detector, its decode threads, and the lock that lets one forward run at a time.

    Args:
        detector: None where every image comes with what another run found in it.
        segmenter: makes masks for what the detector found; None for boxes alone.
        fast_jpeg: decodes plain JPEGs; None: Pillow decodes all.
        decode_threads: threads that decode and resize beside the detector; 0 decodes in the caller's, in between.
        images_per_batch: images handed to the detector at once, None: by its device. About two such batches are decoded
            ahead, and more of them wait for others of their shape, see `ShapePool`.
        max_pixels: larger images become rows with status `too_large`.
        decode_bytes: memory of the images that are decoded at the same time; a larger one is decoded alone.
        watchdog: told of each image and batch that is done.
    """

    def __init__(
        self,
        detector: Detector | None,
        *,
        decode_threads: int,
        images_per_batch: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        decode_bytes: int = DECODE_BYTES,
        watchdog: Watchdog | None = None,
        segmenter: Segmenter | None = None,
        fast_jpeg: images.FastJpeg | None = None,
    ) -> None:
        self._fast_jpeg = fast_jpeg
        self.detector, self.segmenter = detector, segmenter
        self.images_per_batch, self._draw_ahead = images_per_batch or _images_per_batch(detector), decode_threads
        self._max_pixels, self._decode_bytes, self._budget = max_pixels, decode_bytes, ByteBudget(decode_bytes)
        self._bytes_waiting = min(BYTES_WAITING, decode_bytes // _UNITS_AT_ONCE)
        self._least_shape = detector.least_shape if detector else None
        self._decoders = (
            ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") if decode_threads else _InTurn()
        )
        self._detector_lock = threading.Lock()
        self._watchdog = watchdog or Watchdog()
        self.on_first: Callable[[], None] | None = None  # of `Forwards`, for each unit

    def in_turn(self, *, detect: bool = True) -> UnitLabeler:
        """The same models and limits, but everything one after the other in the caller's thread.

        Args:
            detect: False leaves the detector out: images come with what was found in them.
        """
        return UnitLabeler(
            self.detector if detect else None,
            decode_threads=0,
            images_per_batch=self.images_per_batch,
            max_pixels=self._max_pixels,
            decode_bytes=self._decode_bytes,
            watchdog=self._watchdog,
            segmenter=self.segmenter,
            fast_jpeg=self._fast_jpeg,
        )

    @property
    def description(self) -> dict[str, str]:
        """Of the detector, of the segmenter if there is one, and of what decodes JPEGs."""
        engine = self.detector.description if self.detector else {"engine": "detections of another run"}
        decoders = {"jpeg_decoder": images.decoders_text(self._fast_jpeg)}
        return engine | (self.segmenter.description if self.segmenter else {}) | decoders

    def label(self, shard_id: str, items: Sequence[Item], keep: Sequence[str] = ()) -> tuple[list[Row], UnitWork]:
        """One row for each item, in item order, and what it took."""
        work = UnitWork(bytes_read=sum(len(item.data) for item in items if item.data is not None))
        rows: list[Row] = []
        pool: ShapePool[_Ready] = ShapePool(self.images_per_batch, most_bytes=self._bytes_waiting)
        drawing: deque[Future[tuple[Row, float]]] = deque()
        with self._watchdog.working(), closing(self._forwards()) as forwards:
            for decoded in self._decoded_ahead(shard_id, items, keep):
                self._watchdog.beat()
                if decoded is None:
                    rows += self._rows(forwards.rest(), work, drawing)
                    forwards.close()  # nothing to detect on just now: let another unit go on
                    continue
                outcome, took = decoded
                work.decode_s += took
                if isinstance(outcome, Row):
                    rows.append(outcome)
                    continue
                size = bytes_of(outcome.prepared, outcome.for_masks)
                for batch in pool.add(outcome, _group_of(outcome.prepared), size):
                    rows += self._rows(forwards.begin(batch), work, drawing)
            for batch in pool.rest():
                rows += self._rows(forwards.begin(batch), work, drawing)
            rows += self._rows(forwards.rest(), work, drawing)
        work.add(forwards.work)
        work.detect_s = forwards.seconds
        rows += _drawn(drawing, 0, work)
        rows.sort(key=lambda row: row.index)
        return rows, work

    def _forwards(self) -> Forwards:
        return Forwards(self.detector, self._detector_lock, self.on_first, images_per_batch=self.images_per_batch)

    def _decoded_ahead(
        self, shard_id: str, items: Sequence[Item], keep: Sequence[str]
    ) -> Iterator[tuple[_Ready | Row, float] | None]:
        """Decoded images in the order of the items; None before one that is waited for."""
        ahead = 2 * self.images_per_batch  # a decoded unit of 12 MP images would be 9 GB: stay close to the detector
        waiting: deque[Future[tuple[_Ready | Row, float]]] = deque()
        source = iter(items)
        for item in islice(source, ahead):
            waiting.append(self._decoders.submit(self._prepare, shard_id, item, keep))
        while waiting:
            if not waiting[0].done():
                yield None
            outcome = waiting.popleft().result()
            for item in islice(source, 1):
                waiting.append(self._decoders.submit(self._prepare, shard_id, item, keep))
            yield outcome

    def describe(self, shard_id: str, item: Item, keep: Sequence[str]) -> Row:
        """Return what is known of an image without detecting on it: its size and hash, or why it has none."""
        with self._budget.lease() as reserve:
            return self._decode(shard_id, item, keep, reserve)[0]

    def _prepare(self, shard_id: str, item: Item, keep: Sequence[str]) -> tuple[_Ready | Row, float]:
        start = time.perf_counter()
        with self._budget.lease() as reserve:
            row, image = self._decode(shard_id, item, keep, reserve)
            ready = row if image is None else self._ready(row, image, item)
            del image  # before its bytes are given back
        return ready, time.perf_counter() - start

    def _ready(self, row: Row, image: images.Image, item: Item) -> _Ready | Row:
        if item.asked == ():
            return replace(row, status="empty")  # no name to look for
        for_masks = self.segmenter.prepare(image.pixels) if self.segmenter else None
        full_size = () if image.full_size is None else (image.full_size,)
        prepared: Any = self.detector.prepare(image.pixels, *full_size) if self.detector else item.found
        if item.asked is not None:
            prepared = replace(prepared, asked=item.asked)
        return _Ready(row, prepared, for_masks)

    def _decode(
        self, shard_id: str, item: Item, keep: Sequence[str], reserve: Callable[[int], None]
    ) -> tuple[Row, images.Image | None]:
        """(the row so far, the image; None where the row is finished)."""
        row = undetected_row(shard_id, item, keep)
        if item.removed:
            return row, None
        if item.data is None or item.error is not None:
            return replace(row, error=item.error or "no data"), None
        try:
            image = images.decode(
                item.data,
                max_pixels=self._max_pixels,
                least_shape=self._least_shape,
                reserve=reserve,
                fast_jpeg=self._fast_jpeg,
            )
        except images.ImageError as error:
            return replace(row, status=error.status, error=str(error)), None
        row = replace(row, width=image.width, height=image.height, orientation=image.orientation)
        return replace(row, phash=images.phash(image.pixels)), image

    def _rows(
        self,
        detected: Iterator[tuple[_Ready, Any]],
        work: UnitWork,
        drawing: deque[Future[tuple[Row, float]]],
    ) -> list[Row]:
        """Rows that are finished: those without detections, and earlier ones whose masks are drawn by now."""
        finished = []
        for ready, result in detected:
            self._watchdog.beat()
            row = _finish(ready.row, result)
            if self.segmenter is None or not len(row.detections):
                finished.append(row)
                continue
            start, halvings = time.perf_counter(), self.segmenter.memory_halvings
            sketch = self.segmenter.sketch(ready.for_masks, row.detections)
            work.mask_s += time.perf_counter() - start
            work.memory_halvings += self.segmenter.memory_halvings - halvings  # one unit at a time: it has the lock
            drawing.append(self._decoders.submit(self._draw, row, sketch))
            finished += _drawn(drawing, self._draw_ahead, work)
        return finished

    def _draw(self, row: Row, sketch: Any) -> tuple[Row, float]:
        """Masks at the image's size, on a decode thread: the forward goes on meanwhile."""
        assert self.segmenter is not None
        start = time.perf_counter()
        drawn = self.segmenter.draw(sketch)
        row = replace(row, detections=drawn.detections, error=MASKS_LOST if drawn.lost else row.error)
        return row, time.perf_counter() - start


def _group_of(prepared: Any) -> Any:
    """Equal for images that can go to the detector together; a detector of the user's own may only have shapes."""
    return getattr(prepared, "group", getattr(prepared, "shape", None))


def _drawn(drawing: deque[Future[tuple[Row, float]]], waiting: int, work: UnitWork) -> list[Row]:
    """The oldest rows, so that at most so many go on waiting: the logits of an image's masks are up to 26 MB."""
    rows = []
    while len(drawing) > waiting:
        row, took = drawing.popleft().result()
        work.mask_s += took
        rows.append(row)
    return rows


def undetected_row(shard_id: str, item: Item, keep: Sequence[str]) -> Row:
    """What is known of an image before it is decoded; its status is the read error, should there be one."""
    if item.removed:
        return Row(item.key, shard_id, item.index, item.uri, "removed")
    return Row(
        image_key=item.key,
        shard_id=shard_id,
        index=item.index,
        uri=item.uri,
        status="read_error",
        offset=item.offset,
        length=item.length,
        error=item.error,
        digest=None if item.data is None or item.error is not None else digest_of(item.data),
        kept={name: item.kept.get(name) for name in keep},
        asked=item.asked,
    )


def _finish(row: Row, result: Any) -> Row:
    if not isinstance(result, Detections):
        return replace(row, status="detect_error", error=str(result))
    return replace(row, status="labeled" if len(result) else "empty", detections=result)

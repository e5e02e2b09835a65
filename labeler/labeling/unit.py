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
from functools import partial
from itertools import islice
from typing import Any

from labeler import images
from labeler.byte_budget import DECODE_BYTES, ByteBudget
from labeler.digests import digest_of
from labeler.images.tiling import Tiling
from labeler.labeling.batching import BYTES_WAITING, ShapePool, bytes_of, group_of, images_together
from labeler.labeling.detector import UnitDetector, prepare_whole
from labeler.labeling.forwards import Forwards
from labeler.labeling.segmenter import Segmenter
from labeler.labeling.tiled import TiledImage, cut, one_ahead
from labeler.labeling.watchdog import Watchdog
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.labels.unit_work import UnitWork
from labeler.shards import Item

_UNITS_AT_ONCE = 4  # of a worker's at most: together they hold no more decoded images than it may decode at once
MASKS_LOST = "some masks contained NaN or infinity and were dropped"


@dataclass(frozen=True)
class _Ready:
    row: Row  # everything but status and detections
    prepared: Any
    for_masks: Any = None
    tiled: TiledImage | None = None  # the image, where this is one of its views
    number: int = 0  # of the view

    @property
    def size(self) -> int:
        """Bytes that wait with it; what is for the masks of an image waits once, with its last view."""
        last = self.tiled is None or self.number == len(self.tiled.views) - 1
        return bytes_of(self.prepared, self.for_masks) if last else bytes_of(self.prepared)


@dataclass(frozen=True)
class _Opened:
    row: Row  # finished where there is no image
    image: images.Image | None
    item: Item
    for_masks: Any = None
    tiled: TiledImage | None = None


_Outcome = tuple[list[_Ready | Row], float]  # what a step of a decode thread has made, and its seconds


class _InTurn(Executor):
    """An executor that runs each call at once in the caller's thread, so that each step can be timed separately."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **options))
        return future


def _images_per_batch(detector: UnitDetector | None) -> int:
    """By the device that the detector ended up on: on a CPU one, on a GPU whole forward passes.

    One where no two share a forward pass: then waiting for images of the same shape gains nothing.
    """
    if detector is None or detector.description.get("device", "cpu") == "cpu" or detector.images_per_forward == 1:
        return 1
    return images_together(detector.images_per_forward)


class UnitLabeler:
    """A labeler of units: a detector, its decode threads, and the lock that lets one forward pass run at a time.

    Args:
        detector: None if every image comes with what another run found in it; a `BoxScorer` scores that again.
        segmenter: makes masks for what the detector found; None for boxes alone.
        fast_jpeg: decodes plain JPEGs; None: Pillow decodes all.
        decode_threads: threads that decode and resize beside the detector; 0 decodes in the caller's, in between.
        images_per_batch: images handed to the detector at once, None: by its device. About two such batches are decoded
            ahead, and more of them wait for others of their shape, see `ShapePool`.
        max_pixels: larger images become rows with status `too_large`.
        tiling: which images the detector looks at in tiles, too; None for none.
        decode_bytes: memory of the images that are decoded at the same time; a larger one is decoded alone.
        watchdog: told of each image and batch that is done.
    """

    def __init__(
        self,
        detector: UnitDetector | None,
        *,
        decode_threads: int,
        images_per_batch: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        decode_bytes: int = DECODE_BYTES,
        watchdog: Watchdog | None = None,
        segmenter: Segmenter | None = None,
        fast_jpeg: images.FastJpeg | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self._fast_jpeg = fast_jpeg
        self._tiling = tiling if detector else None
        self.detector, self.segmenter = detector, segmenter
        self.images_per_batch, self._draw_ahead = images_per_batch or _images_per_batch(detector), decode_threads
        self._max_pixels, self._decode_bytes, self._budget = max_pixels, decode_bytes, ByteBudget(decode_bytes)
        self._bytes_waiting = min(BYTES_WAITING, decode_bytes // _UNITS_AT_ONCE)
        self._least_shape = self._least_shape_of(detector) if detector else None
        self._decoders = (
            ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") if decode_threads else _InTurn()
        )
        self._detector_lock = threading.Lock()
        self._watchdog = watchdog or Watchdog()
        self.on_first: Callable[[], None] | None = None  # of `Forwards`, for each unit

    def in_turn(self, *, detect: bool = True) -> UnitLabeler:
        """Return the same models and limits, but everything one after the other in the caller's thread.

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
            tiling=self._tiling,
        )

    def _least_shape_of(self, detector: UnitDetector) -> images.LeastShape | None:
        """Return the detector's, but that tiles are cut from all pixels of an image."""
        least, tiling = detector.least_shape, self._tiling
        if least is None or tiling is None:
            return least
        return lambda height, width: (height, width) if tiling.applies(height, width) else least(height, width)

    @property
    def description(self) -> dict[str, str]:
        """Of the detector, of the segmenter if there is one, and of what decodes JPEGs."""
        engine = self.detector.description if self.detector else {"engine": "detections of another run"}
        decoders = {"jpeg_decoder": images.decoders_text(self._fast_jpeg)}
        return engine | (self.segmenter.description if self.segmenter else {}) | decoders

    def label(self, shard_id: str, items: Sequence[Item], keep: Sequence[str] = ()) -> tuple[list[Row], UnitWork]:
        """Return one row for each item, in item order, and what it took."""
        work = UnitWork(bytes_read=sum(len(item.data) for item in items if item.data is not None))
        rows: list[Row] = []
        pool: ShapePool[_Ready] = ShapePool(self.images_per_batch, most_bytes=self._bytes_waiting)
        drawing: deque[Future[tuple[Row, float]]] = deque()
        with self._watchdog.working(), closing(self._forwards()) as forwards:
            for decoded in self._decoded_ahead(shard_id, items, keep):
                self._watchdog.beat()
                if decoded is None:
                    rows += self._rows(forwards.rest(), work, drawing)
                    forwards.close()  # nothing to detect on yet: let another unit continue
                    continue
                outcomes, took = decoded
                work.decode_s += took
                for outcome in outcomes:
                    if isinstance(outcome, Row):
                        rows.append(outcome)
                        continue
                    for batch in pool.add(outcome, group_of(outcome.prepared), outcome.size):
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

    def _decoded_ahead(self, shard_id: str, items: Sequence[Item], keep: Sequence[str]) -> Iterator[_Outcome | None]:
        """Decoded images, and views of tiled ones, in the order of the items; None before one that is waited for."""
        ahead = 2 * self.images_per_batch  # a decoded unit of 12 MP images would be 9 GB: stay close to the detector
        waiting: deque[Future[_Outcome]] = deque()
        source = one_ahead((self._steps(shard_id, item, keep) for item in items), most_bytes=self._bytes_waiting)
        for step in islice(source, ahead):
            waiting.append(self._decoders.submit(step))
        while waiting:
            if not waiting[0].done():
                yield None
            outcome = waiting.popleft().result()
            for step in islice(source, 1):
                waiting.append(self._decoders.submit(step))
            yield outcome

    def _steps(self, shard_id: str, item: Item, keep: Sequence[str]) -> tuple[int, Sequence[Callable[[], _Outcome]]]:
        """Return what decode threads do for an image, in this order, and the bytes of its pixels between the steps.

        One step, but for images that are tiled by what their headers say: they are opened, then each view is a step.
        """
        size = self._tiled_size(item)
        if size is None or self._tiling is None:
            return 0, [partial(self._prepare, shard_id, item, keep)]
        opened: Future[_Opened] = Future()
        views = range(self._tiling.views_count(*size))
        parts = [slice(number, None if number == views[-1] else number + 1) for number in views]
        cuts = [partial(self._prepare_views, opened, part) for part in parts]
        return 3 * size[0] * size[1], [partial(self._prepare_first, opened, shard_id, item, keep), *cuts]

    def _tiled_size(self, item: Item) -> tuple[int, int] | None:
        """Return (height, width) of an image that is to be cut into views, as stored."""
        if self._tiling is None or item.data is None or item.error is not None:
            return None
        size = images.stored_size(item.data)
        tiled = size is not None and self._tiling.applies(*size) and not self._tiling.problem(*size)
        return size if tiled else None

    def describe(self, shard_id: str, item: Item, keep: Sequence[str]) -> Row:
        """Return what is known of an image without detecting on it: its size and hash, or why it has none."""
        with self._budget.lease() as reserve:
            return self._decode(shard_id, item, keep, reserve)[0]

    def _prepare(self, shard_id: str, item: Item, keep: Sequence[str]) -> _Outcome:
        """Return the row of an image, or the image ready for the detector, in all of its views."""
        start = time.perf_counter()
        with self._budget.lease() as reserve:
            opened = self._open(shard_id, item, keep, reserve)
            ready = self._ready(opened)
            del opened  # before its bytes are given back
        return ready, time.perf_counter() - start

    def _prepare_first(self, opened: Future[_Opened], shard_id: str, item: Item, keep: Sequence[str]) -> _Outcome:
        """Open an image for `_prepare_views`, which makes all that comes of it."""
        start = time.perf_counter()
        try:
            with self._budget.lease() as reserve:
                opened.set_result(self._open(shard_id, item, keep, reserve))
        except BaseException as error:
            opened.set_exception(error)
            raise
        return [], time.perf_counter() - start

    def _prepare_views(self, opened: Future[_Opened], part: slice) -> _Outcome:
        """Return some views of an image; an earlier step opens it, and has started when this one does."""
        found = opened.result()
        start = time.perf_counter()
        return self._ready(found, part), time.perf_counter() - start

    def _open(self, shard_id: str, item: Item, keep: Sequence[str], reserve: Callable[[int], None]) -> _Opened:
        row, image = self._decode(shard_id, item, keep, reserve)
        if image is None:
            return _Opened(row, None, item)
        if item.asked == ():
            return _Opened(replace(row, status="empty"), None, item)  # no name to look for
        for_masks = self.segmenter.prepare(image.pixels) if self.segmenter else None
        views = self._tiling.views(image.height, image.width) if self._tiling else ()
        return _Opened(row, image, item, for_masks, TiledImage(views) if views else None)

    def _ready(self, opened: _Opened, part: slice = slice(None)) -> list[_Ready | Row]:
        """Return an image's row, or the prepared image, or `part` of its views."""
        image, tiled = opened.image, opened.tiled
        if image is not None and tiled is not None:
            return [self._view(opened, image, tiled, number) for number in range(len(tiled.views))[part]]
        if not range(1)[part]:
            return []
        if image is None:
            return [opened.row]
        prepared = _asked(prepare_whole(self.detector, image, opened.item.found), opened.item)
        return [_Ready(opened.row, prepared, opened.for_masks)]

    def _view(self, opened: _Opened, image: images.Image, tiled: TiledImage, number: int) -> _Ready:
        assert self.detector is not None, "only what is detected on is tiled"
        view = tiled.views[number]
        prepared = _asked(self.detector.prepare_view(cut(image.pixels, view), view), opened.item)
        return _Ready(opened.row, prepared, opened.for_masks, tiled, number)

    def _decode(
        self, shard_id: str, item: Item, keep: Sequence[str], reserve: Callable[[int], None]
    ) -> tuple[Row, images.Image | None]:
        """Return (the row so far, the image; None where the row is finished)."""
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
        if self._tiling and (problem := self._tiling.problem(image.height, image.width)):
            return replace(row, status="too_large", error=problem), None
        row = replace(row, width=image.width, height=image.height, orientation=image.orientation)
        return replace(row, phash=images.phash(image.pixels)), image

    def _rows(
        self,
        detected: Iterator[tuple[_Ready, Any]],
        work: UnitWork,
        drawing: deque[Future[tuple[Row, float]]],
    ) -> list[Row]:
        """Return rows that are finished: those without detections, and earlier ones whose masks are drawn by now."""
        finished = []
        for ready, result in detected:
            self._watchdog.beat()
            if ready.tiled is not None and self.detector is not None:
                if not ready.tiled.add(ready.number, result):
                    continue
                result = ready.tiled.result(self.detector.merge_views)
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
        """Return masks at the image's size, on a decode thread: the forward pass continues meanwhile."""
        assert self.segmenter is not None
        start = time.perf_counter()
        drawn = self.segmenter.draw(sketch)
        row = replace(row, detections=drawn.detections, error=MASKS_LOST if drawn.lost else row.error)
        return row, time.perf_counter() - start


def _asked(prepared: Any, item: Item) -> Any:
    """Return what was prepared, with the names that the image is asked for."""
    return prepared if item.asked is None else replace(prepared, asked=item.asked)


def _drawn(drawing: deque[Future[tuple[Row, float]]], waiting: int, work: UnitWork) -> list[Row]:
    """Return the oldest rows, so that at most that many continue waiting: the logits of an image's masks are up to 26
    MB.
    """
    rows = []
    while len(drawing) > waiting:
        row, took = drawing.popleft().result()
        work.mask_s += took
        rows.append(row)
    return rows


def undetected_row(shard_id: str, item: Item, keep: Sequence[str]) -> Row:
    """Return what is known of an image before it is decoded; its status is the read error, should there be one."""
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

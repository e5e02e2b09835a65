"""What a run will take: shards, bytes, passes, and after timing a sample of real images hours, bytes out and cost."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from labeler.config import Config
from labeler.errors import Refused, counted
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import Job
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import LABELED, Row, rows_to_table, table_to_parquet
from labeler.labels.unit_work import UnitWork
from labeler.runs.plan import PlannedShard
from labeler.shards import Item, skipped
from labeler.trial.counting import Count
from labeler.trial.sample import FIRST_IMAGES, sample_items, skipped_in_sample

_PARTS, _PARTS_OF_BATCHES = 8, 2  # of the sample that are timed separately, to know how much the speed varies
_ON_CPU, _ON_GPU = 16, 256  # images of a sample
_LEAST_SPREAD, _MOST_SPREAD = 0.15, 1 / 3  # of the middle; a third makes the upper end twice the lower
_RAY_START_S, _RAY_JOIN_S, _CHECKS_S = 6.0, 2.0, 3.0  # about: Ray itself, and probing the cluster
_COMMAND_S, _WORKER_S, _END_S = 2.0, 2.0, 2.0  # about: Python's imports, a worker's process, and the end of Ray


@dataclass(frozen=True)
class Timing:
    """A sample of real images labeled on this machine.

    Attributes:
        images: that were labeled; those that failed are not part of it.
        seconds: for those, warm.
        spread: standard error of `seconds`, as a part of them.
        start_s: to load the model.
        image_bytes, label_bytes: of the sample, in and out.
        failures: images of the sample by (status, reason).
        batch_fill: share of the batches' places that had an image.
    """

    images: int
    seconds: float
    image_bytes: int
    label_bytes: int
    device: str
    spread: float = 0.0
    start_s: float = 0.0
    failures: Mapping[tuple[str, str], int] = field(default_factory=dict)
    batch_fill: float | None = None

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def sampled(self) -> int:
        """Images of the sample, failed ones too."""
        return self.images + sum(self.failures.values())


def time_sample(job: Job, plan: Sequence[PlannedShard], *, images: int | None = None) -> Timing:
    """Label a seeded sample here: a first batch to warm up, then all of it on the clock, in parts.

    Args:
        images: how many; None for 16 on a CPU and a full unit on a GPU, so that batches fill as in a worker.

    Raises:
        Refused: no image of the sample can be labeled; the message says why.
    """
    config, start = job.config, time.perf_counter()
    labeler = labeler_here(job)
    start_s, device = time.perf_counter() - start, labeler.description.get("device", "cpu")
    wanted = images or (_ON_CPU if device == "cpu" else min(_ON_GPU, config.unit.images))
    items = list(job.with_names([item for _, item in sample_items(config, plan, images=wanted)]))
    warm_up(labeler, items)
    rows, seconds, work = _timed_parts(labeler, items, job)
    good = [row for row in rows if row.status in LABELED]
    failures = Counter((row.status, row.error or "") for row in rows if row.status not in LABELED)
    if not good:
        raise Refused(f"none of {len(rows)} sampled images could be labeled: {'; '.join(_failure_lines(failures))}")
    return Timing(
        len(good),
        sum(seconds),
        image_bytes=sum(len(item.data) for item in items if item.data is not None),
        label_bytes=len(table_to_parquet(rows_to_table(rows, config.input.keep), {})),
        device=device,
        spread=_spread(seconds),
        start_s=start_s,
        failures=failures,
        batch_fill=work.batch_fill,
    )


def _timed_parts(labeler: UnitLabeler, items: Sequence[Item], job: Job) -> tuple[list[Row], list[float], UnitWork]:
    """Return rows, seconds of each part, and the work.

    Where images share batches, parts are few and long, at most a unit: images wait for others of their shape.
    """
    parts = _PARTS if labeler.images_per_batch == 1 else _PARTS_OF_BATCHES
    each = min(job.config.unit.images, max(labeler.images_per_batch, math.ceil(len(items) / parts)))
    rows, seconds, work = list[Row](), list[float](), UnitWork()
    for first in range(0, len(items), each):
        start = time.perf_counter()
        found, took = labeler.label("000000", items[first : first + each], job.config.input.keep)
        seconds.append(time.perf_counter() - start)
        rows += found
        work.add(took)
    return rows, seconds, work


def _spread(seconds: Sequence[float]) -> float:
    if len(seconds) < 2:
        return _MOST_SPREAD
    return statistics.stdev(seconds) / statistics.mean(seconds) / math.sqrt(len(seconds))


def _failure_lines(failures: Mapping[tuple[str, str], int]) -> list[str]:
    ordered = sorted(failures.items(), key=lambda each: -each[1])
    return [f"{status} {count} ({reason})" if reason else f"{status} {count}" for (status, reason), count in ordered]


@dataclass(frozen=True)
class Site:
    """The machine or cluster that a run will use.

    Attributes:
        workers: that label at the same time.
        starts_ray: whether the job starts a Ray of its own.
        note: what keeps the figures from counting; empty for nothing.
    """

    workers: int
    starts_ray: bool = True
    note: str = ""


@dataclass(frozen=True)
class RunEstimate:
    """Estimated time, storage and cost of a run.

    Attributes:
        low_s, high_s: seconds from the command to the end; `high_s` is at most twice `low_s`.
        start_s: of that until the first image, in the middle.
        worker_hours: of labeling alone.
    """

    low_s: float
    high_s: float
    start_s: float
    worker_hours: float


def estimate(config: Config, timing: Timing, count: Count, site: Site) -> RunEstimate:
    """Extrapolate a sample to all images: start-up, then units one round after the other on all workers."""
    ray_s = _RAY_START_S if site.starts_ray else _RAY_JOIN_S
    start_s = _COMMAND_S + ray_s + _CHECKS_S + _WORKER_S + timing.start_s
    per_image = timing.seconds / timing.sampled  # failed images cost their part, too
    each = min(config.unit.images, max(1, count.images))
    units = math.ceil(count.images / each)
    busy = min(site.workers, max(1, units))
    labeling_s = max(count.images / busy, math.ceil(units / busy) * each if units < 3 * busy else 0) * per_image
    middle = start_s + labeling_s + _END_S
    spread = min(_MOST_SPREAD, _LEAST_SPREAD + 2 * timing.spread)
    return RunEstimate(middle * (1 - spread), middle * (1 + spread), start_s, count.images * per_image / 3600)


def label_warm(labeler: UnitLabeler, items: Sequence[Item], job: Job) -> tuple[list[Row], float]:
    """Return the items' rows, and the seconds they took as in a worker, after a first batch that loads kernels."""
    warm_up(labeler, items)
    start = time.perf_counter()
    rows, _ = labeler.label("000000", items, job.config.input.keep)
    return rows, time.perf_counter() - start


def warm_up(labeler: UnitLabeler, items: Sequence[Item]) -> None:
    """Load kernels and caches with a first batch."""
    labeler.label("000000", items[: labeler.images_per_batch])


def describe_plan(job: Job, plan: Sequence[PlannedShard]) -> Iterator[str]:
    """Yield lines about the work: what will be read, and how often the model runs on each image."""
    images, exact = _images(plan)
    known = counted(images, "image") if exact else "images not known before reading"
    yield f"input    {counted(len(plan), 'shard')}, {format_bytes(_bytes(plan))}, {known}"
    first, *more = job.plan.lines()
    yield f"prompts  {len(job.vocabulary):,} {'category' if len(job.vocabulary) == 1 else 'categories'} in {first}"
    yield from (f"         {line}" for line in more)
    passes, cost = job.plan.passes, job.plan.cost()
    each = "view of an image" if job.config.detect.tiling else "image"
    yield f"passes   {passes} per {each} (1 {cost.per_image}, {passes} {cost.per_pass})"
    yield f"model    {job.detector.name} ({job.detector.architecture}, digest {job.detector.digest})"
    if job.segmenter is not None:
        segmenter = job.segmenter
        yield f"masks    {segmenter.name} ({segmenter.architecture}, digest {segmenter.digest})"
    yield f"resize   {job.rule}"


def describe_skipped(config: Config, plan: Sequence[PlannedShard], beside: Mapping[str, int]) -> Iterator[str]:
    """Yield lines about what is not an image: files beside the input, as listed, and members of some tars."""
    if beside:
        yield f"skipped  files that are not part of the input: {skipped.describe(beside)}"
    members, tars = skipped_in_sample(config, plan)
    if members:
        yield (
            f"skipped  members that are not images, among the first {FIRST_IMAGES} images of "
            f"{counted(tars, 'tar')}: {skipped.describe(members)}"
        )


def describe_estimate(
    config: Config, timing: Timing, count: Count, site: Site, *, price_per_hour: float | None
) -> Iterator[str]:
    """Yield lines about time, bytes and money, extrapolated from `timing` to all images."""
    kind = "CPU" if timing.device == "cpu" else "GPU"
    found = estimate(config, timing, count, site)
    fill = "" if timing.batch_fill is None else f", batches {timing.batch_fill:.0%} full"
    yield (
        f"timed    {counted(timing.images, 'image')} in {timing.seconds:.2f} s on {timing.device}{fill}: "
        f"{timing.images_per_s:.3g} images/s per worker"
    )
    for line in _failure_lines(timing.failures):
        yield f"failed   of {counted(timing.sampled, 'sampled image')} {line}"
    if site.note:
        yield f"note     {site.note}"
    about = "" if count.exact else "about "
    if count.shards:
        yield f"counted  {about}{counted(count.images, 'image')}, from the headers of {counted(count.shards, 'tar')}"
    yield (
        f"estimate {about}{counted(count.images, 'image')} on {counted(site.workers, 'worker')}: "
        f"{describe_range(found)}; {found.worker_hours:.3g} {kind}-hours of labeling"
    )
    yield f"output   about {format_bytes(round(count.images * timing.label_bytes / timing.sampled))} of Parquet"
    if price_per_hour is not None:
        low, high = (seconds / 3600 * site.workers * price_per_hour for seconds in (found.low_s, found.high_s))
        yield f"cost     {low:,.2f} to {high:,.2f} at {price_per_hour:g} per {kind}-hour"
    else:
        yield f"cost     give --price-per-hour for a figure ({kind}-hours × price)"


def describe_range(found: RunEstimate) -> str:
    """Return `46 s to 92 s, of which start-up 22 s`; no start-up where the lower end has no room for it.

    The start-up is from the middle of the range, and a short run is little else.
    """
    ends = f"{format_seconds(found.low_s)} to {format_seconds(found.high_s)}"
    return f"{ends}, of which start-up {format_seconds(found.start_s)}" if found.start_s < found.low_s else ends


def format_seconds(seconds: float) -> str:
    """`42 s`, `3.5 min` or `12.3 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _images(plan: Sequence[PlannedShard]) -> tuple[int, bool]:
    return sum(p.images or 0 for p in plan), all(p.images is not None for p in plan)


def _bytes(plan: Sequence[PlannedShard]) -> int:
    return sum(p.shard.size or 0 for p in plan)


def format_bytes(count: int) -> str:
    """`12.3 MiB` and the like."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"

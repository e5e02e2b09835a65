"""What a run will take: shards, bytes, passes, and after timing a few real images hours, bytes out and cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labeler.config import Config
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import Job
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.runs.plan import PlannedShard
from labeler.shards import Item, skipped
from labeler.trial.sample import FIRST_IMAGES, sample_items, skipped_in_sample


@dataclass(frozen=True)
class Timing:
    """A few real images labeled on this machine."""

    images: int
    seconds: float  # of the second, warm pass
    image_bytes: int
    label_bytes: int
    device: str

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def time_sample(job: Job, plan: Sequence[PlannedShard], *, images: int) -> Timing:
    """Label a seeded sample here, once to warm up (one image) and once on the clock."""
    config, labeler = job.config, labeler_here(job)
    items = [item for _, item in sample_items(config, plan, images=images)]
    rows, seconds = label_warm(labeler, items, job)
    label_bytes = len(table_to_parquet(rows_to_table(rows, config.input.keep), {}))
    image_bytes = sum(len(item.data) for item in items if item.data is not None)
    return Timing(len(items), seconds, image_bytes, label_bytes, labeler.description["device"])


def label_warm(labeler: UnitLabeler, items: Sequence[Item], job: Job) -> tuple[list[Row], float]:
    """The items' rows, and the seconds they took as in a worker, after a first batch that loads kernels."""
    labeler.label("000000", items[: labeler.images_per_batch])
    start = time.perf_counter()
    rows, _ = labeler.label("000000", items, job.config.input.keep)
    return rows, time.perf_counter() - start


def describe_plan(job: Job, plan: Sequence[PlannedShard]) -> Iterator[str]:
    """Lines about the work: what will be read, and how often the model runs on each image."""
    images, exact = _images(plan)
    known = f"{images:,} images" if exact else "images not known before reading"
    yield f"input    {len(plan):,} shards, {format_bytes(_bytes(plan))}, {known}"
    first, *more = job.plan.lines()
    yield f"prompts  {len(job.vocabulary):,} categories in {first}"
    yield from (f"         {line}" for line in more)
    passes, cost = job.plan.passes, job.plan.cost()
    yield f"passes   {passes} per image (1 {cost.per_image}, {passes} {cost.per_pass})"
    yield f"model    {job.detector.name} ({job.detector.architecture}, digest {job.detector.digest})"
    if job.segmenter is not None:
        segmenter = job.segmenter
        yield f"masks    {segmenter.name} ({segmenter.architecture}, digest {segmenter.digest})"
    yield f"resize   {job.rule}"


def describe_skipped(config: Config, plan: Sequence[PlannedShard], beside: Mapping[str, int]) -> Iterator[str]:
    """Lines about what is not an image: files beside the input, as listed, and members of some tars."""
    if beside:
        yield f"skipped  files that are not part of the input: {skipped.describe(beside)}"
    members, tars = skipped_in_sample(config, plan)
    if members:
        yield (
            f"skipped  members that are not images, among the first {FIRST_IMAGES} images of "
            f"{tars} tar{'s' if tars != 1 else ''}: {skipped.describe(members)}"
        )


def describe_estimate(
    config: Config, plan: Sequence[PlannedShard], timing: Timing, *, workers: int, price_per_hour: float | None
) -> Iterator[str]:
    """Lines about time, bytes and money, extrapolated from `timing` to the whole input."""
    images, exact = _images(plan)
    if not exact:
        images = round(_bytes(plan) / max(1.0, timing.image_bytes / timing.images))
    kind = "CPU" if timing.device == "cpu" else "GPU"
    worker_hours = images / timing.images_per_s / 3600
    yield (
        f"timed    {timing.images} images in {timing.seconds:.2f} s on {timing.device}: "
        f"{timing.images_per_s:.3g} images/s per worker"
    )
    about = "" if exact else "about "
    yield (
        f"estimate {about}{images:,} images: {worker_hours:.3g} {kind}-hours, "
        f"{worker_hours / workers:.3g} hours on {workers} worker{'s' if workers != 1 else ''}"
    )
    yield f"output   about {format_bytes(round(images * timing.label_bytes / timing.images))} of Parquet"
    if price_per_hour is not None:
        yield f"cost     about {worker_hours * price_per_hour:,.2f} at {price_per_hour:g} per {kind}-hour"
    else:
        yield f"cost     give --price-per-hour for a figure ({kind}-hours × price)"


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

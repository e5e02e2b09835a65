"""Where the time goes: a sample of a run's images labeled here, without Ray, one part after the other."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from labeler import storage
from labeler.detectors.batched import BatchedDetector
from labeler.detectors.clock import seconds_on
from labeler.detectors.profiling import (
    MERGE,
    PER_IMAGE,
    RESIZE,
    counted_operations,
    instrumented,
    per_pass,
    reached_rate,
    time_text,
    traced,
)
from labeler.detectors.ranges import Ranges, replaced
from labeler.errors import Refused
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import Job
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import rows_to_table, table_to_parquet
from labeler.machine import worker_threads
from labeler.prompts import ModuleFamily
from labeler.runs.plan import PlannedShard
from labeler.shards import Item
from labeler.trial.estimate import label_warm
from labeler.trial.sample import first_items

READ, DECODE, WRITE, REST = "read", "decode and hash", "encode and write", "rest"


def parts_of(per_pass: Sequence[str]) -> tuple[str, ...]:
    """Return all parts in their order, with those that a family pays for once a pass."""
    return (READ, DECODE, *PER_IMAGE, *per_pass, MERGE, WRITE, REST)


@dataclass(frozen=True)
class Profile:
    """A sample of images, labeled one part after the other.

    Attributes:
        passes: of each image, or of each view of a tiled one.
        per_pass: the parts that are paid once a pass.
        seconds: part -> seconds of all images; all of `parts_of(per_pass)`, in their order.
        operations: part -> floating-point operations of all images.
        total_s: wall-clock time, from before the first part to behind the last.
        pipelined_s: the same images as a worker runs them: decoding beside the detector, no waiting in between.
        text_s: encoding the text of all passes, once in a worker's life.
        peak: operations a second of one large product on this device.
        description: of the detector: engine, dtype, device.
        threads: decode threads of a worker on this machine.
        views: how often the detector looks at an image, on the mean.
    """

    images: int
    passes: int
    per_pass: tuple[str, ...]
    seconds: dict[str, float]
    operations: dict[str, float]
    total_s: float
    pipelined_s: float
    text_s: float
    roof: float
    description: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    views: float = 1.0

    @property
    def decode_cores(self) -> float:
        """Cores that have to decode and resize so that the detector never waits for an image."""
        detector = sum(self.seconds.get(name, 0.0) for name in (*PER_IMAGE, *self.per_pass, MERGE) if name != RESIZE)
        beside = self.seconds[DECODE] + self.seconds[RESIZE]
        return beside / detector if detector else 0.0


def profile_sample(job: Job, plan: Sequence[PlannedShard], *, images: int, trace: str | None = None) -> Profile:
    """Label the first images of some shards on this machine, several times over; nothing is written to the output.

    Args:
        images: how many.
        trace: a file for a Chrome trace of one batch; None for none.

    Raises:
        Refused: the detector is the user's own, whose parts are not known.
    """
    if isinstance(job.detector.family, ModuleFamily):
        raise Refused(f"--profile does not know the parts of {job.detector.architecture}; --dry-run times it")
    labeler = labeler_here(job, masks=False)
    detector = _detector_of(labeler)
    clock, roof = seconds_on(detector.device), reached_rate(detector)
    ranges, start = Ranges(clock), clock()
    with ranges.part(READ):
        items = list(job.with_names([item for _, item in first_items(job.config, plan, images=images)]))
    read_s = clock() - start
    _, pipelined_s = label_warm(labeler, items, job)
    start = clock()
    views = _label_in_parts(labeler, items, job, ranges)
    total_s = read_s + clock() - start
    with counted_operations() as meter:
        operations = Ranges(meter)
        _label_in_parts(labeler, items, job, operations)
    if trace:
        batch = items[: labeler.images_per_batch]
        with traced(trace) as mark:
            _label_in_parts(labeler, batch, job, Ranges(time.perf_counter, mark=mark))
    parts = parts_of(per_pass(detector))
    return Profile(
        len(items),
        job.plan.passes,
        per_pass(detector),
        {name: ranges.parts.get(name, 0.0) for name in parts},
        {name: operations.parts.get(name, 0.0) for name in parts},
        total_s,
        pipelined_s,
        time_text(detector),
        max(roof, reached_rate(detector)),  # before and after: other programs may have been at work
        detector.description,
        worker_threads(job.config.ray.cpus_per_worker),
        views / len(items) if job.config.detect.tiling else 1.0,
    )


def _detector_of(labeler: UnitLabeler) -> BatchedDetector:
    assert isinstance(labeler.detector, BatchedDetector), "only boxes of another run are worked on"
    return labeler.detector


def _label_in_parts(labeler: UnitLabeler, items: Sequence[Item], job: Job, ranges: Ranges) -> int:
    """Label and write one unit, to a folder that goes away; what belongs to no part is `REST`. Returns the views."""
    keep, labeler = job.config.input.keep, labeler.in_turn()
    with ExitStack() as stack:
        stack.enter_context(instrumented(_detector_of(labeler), ranges))
        for step in ("_prepare", "_prepare_first", "_prepare_views"):
            stack.enter_context(replaced(labeler, step, ranges.within(DECODE, getattr(labeler, step))))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with ranges.part(REST):
            rows, work = labeler.label("000000", items, keep)
        with ranges.part(WRITE):
            storage.put_if_absent(str(Path(folder) / "unit.parquet"), table_to_parquet(rows_to_table(rows, keep), {}))
    return work.filled


def describe_profile(profile: Profile) -> Iterator[str]:
    """Yield a table of the parts, and what is beside it."""
    said, images = profile.description, profile.images
    views = "" if profile.views == 1 else f"{profile.views:.1f} views each on the mean, "
    yield (
        f"profile  {images} images, {views}{profile.passes} passes each, on {said.get('device')} in "
        f"{said.get('dtype')} (engine {said.get('engine')})"
    )
    passes_each = profile.passes * profile.views
    yield f"{'part':24}{'share':>8}{'ms/image':>11}{'ms/pass':>10}{'of peak':>10}"
    for name, seconds in profile.seconds.items():
        passes = passes_each if name in profile.per_pass else 0
        yield _line(profile, name, seconds, profile.operations[name], passes)
    yield _line(profile, "sum", sum(profile.seconds.values()), sum(profile.operations.values()), passes_each)
    yield (
        f"speed    {images / profile.pipelined_s:.3g} images/s with decoding beside the detector, as a worker runs; "
        f"{images / profile.total_s:.3g} one part after the other"
    )
    yield f"feeding  {_feeding(profile)}"
    yield f"text     {1000 * profile.text_s:.0f} ms for all {profile.passes} passes, once in a worker's life"
    yield f"peak     {profile.roof / 1e9:,.0f} GF/s: one large product on this device"


def _feeding(profile: Profile) -> str:
    """Return whether a worker's decode threads keep up with its detector."""
    threads = f"a worker has {profile.threads} here"
    if profile.decode_cores <= profile.threads:
        return f"{profile.decode_cores:.2g} cores decode and resize as fast as the detector works; {threads}"
    owner = "worker" if profile.description.get("device") == "cpu" else "GPU"
    return (
        f"decode-bound: {math.ceil(profile.decode_cores)} cores a {owner} are needed, {threads}; "
        "give ray.cpus_per_worker, or see detect.resize and detect.jpeg_draft in docs/explanation/speed.md"
    )


def _line(profile: Profile, name: str, seconds: float, operations: float, passes: float) -> str:
    share, ms = seconds / profile.total_s, 1000 * seconds / profile.images
    by_pass = f"{ms / passes:10.1f}" if passes else f"{'':10}"
    roof = f"{operations / seconds / profile.roof:10.0%}" if operations and seconds else ""
    return f"{name:24}{share:8.1%}{ms:11.1f}{by_pass}{roof}".rstrip()

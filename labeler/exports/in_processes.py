"""Write an export's parts in several processes: first count where each of them begins, then write many at once.

The files are those that one process writes. Parts are noted in order, so that an export that was stopped continues
after the last part before which nothing is missing; the same command writes the others again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from labeler import storage
from labeler.byte_budget import DECODE_BYTES
from labeler.errors import LabelerError
from labeler.exports.formats import Format, Frame, PartSize
from labeler.exports.picks import Picks
from labeler.exports.selection import Selector
from labeler.exports.totals import ExportTotals
from labeler.exports.writing import ExportedRun, PartWriter, TakenImages, remove_leftovers
from labeler.processes import Processes
from labeler.runs import Snapshot, UnitKey
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.snapshot import stretch_of

UNITS_PER_COUNT = 500  # of one task


def can_share(format_: Format, frame: Frame, picks: Picks | None) -> bool:
    """Return whether the parts can be written at once: counts decide where they end, and no image depends on all
    others.
    """
    return picks is None and frame.selection.sample is None and format_.part_size(frame) is not None


def write(source: ExportedRun, writer: PartWriter, processes: int) -> None:
    """Write all parts that are missing, and note them with `writer`."""
    totals, size = writer.totals, writer.format.part_size(writer.frame)
    assert size is not None, "can_share says it"
    shared = SharedExport(writer.frame, writer.format, source.excluded, DECODE_BYTES // processes)
    snapshot = source.snapshot
    every = snapshot.unit_keys()
    keys = every[totals.units :]
    stretches = (stretch_of(snapshot, keys[at : at + UNITS_PER_COUNT]) for at in range(0, len(keys), UNITS_PER_COUNT))
    try:
        with Processes(shared, processes) as pool:
            counts = [count for some in pool.map(_count, stretches) for count in some]
            _require_all(len(counts), len(keys), "counted", writer.frame.target)
            for written in pool.map(_write_part, _tasks(snapshot, keys, counts, size, writer)):
                totals.include(written)
                writer.end_part()
        _require_all(totals.units, len(every), "written", writer.frame.target)
        writer.write(())  # an export of nothing has a part, too
    finally:
        remove_leftovers(writer.frame.target)  # of processes that were ended


def _require_all(units: int, every: int, done: str, target: str) -> None:
    """Raise an error rather than note an export as complete that lacks rows."""
    if units != every:
        shown = storage.redact(target)
        raise LabelerError(f"internal error: {units:,} of {every:,} units were {done}; delete {shown} and export again")


@dataclass(frozen=True)
class SharedExport:
    """An export as every task needs it.

    Attributes:
        decode_bytes: one process's share of the memory for images that are decoded.
    """

    frame: Frame
    format: Format
    excluded: Excluded
    decode_bytes: int

    def source(self, snapshot: Snapshot) -> tuple[ExportedRun, Selector]:
        """The units of a task, on storage that is read as the run reads it."""
        self.frame.run.s3_rules(self.frame.target).apply()
        source = ExportedRun(snapshot, self.excluded)
        return source, source.chooser(self.frame.selection)


class UnitShare(NamedTuple):
    """A unit's share of an export: rows of the run that are done, images, and boxes.

    Annotations are the boxes and the regions to ignore: ids count these, and part sizes only the boxes.
    """

    rows: int
    images: int
    boxes: int
    annotations: int


@dataclass(frozen=True)
class PartTask:
    """One part to write, and the totals before it that its ids count on from."""

    number: int
    stretch: Snapshot
    rows: int
    annotations: int


def _count(shared: SharedExport, stretch: Snapshot) -> list[UnitShare]:
    source, chooser = shared.source(stretch)
    counts = []
    for _, choice in source.choices(chooser, masks=False):
        totals = ExportTotals()
        for _, image in choice.chosen:
            totals.add(image, None)
        counts.append(UnitShare(choice.rows, len(choice.chosen), totals.boxes.total(), totals.annotations))
    return counts


def _tasks(
    snapshot: Snapshot, keys: list[UnitKey], counts: list[UnitShare], size: PartSize, writer: PartWriter
) -> Iterator[PartTask]:
    number, rows, annotations = writer.number, writer.totals.rows, writer.totals.annotations
    start = images = boxes = 0
    for at, count in enumerate(counts, 1):
        images, boxes = images + count.images, boxes + count.boxes
        if at == len(counts) or size.is_reached(images, boxes):
            yield PartTask(number, stretch_of(snapshot, keys[start:at]), rows, annotations)
            rows += sum(each.rows for each in counts[start:at])
            annotations += sum(each.annotations for each in counts[start:at])
            number += 1
            start, images, boxes = at, 0, 0


def _write_part(shared: SharedExport, task: PartTask) -> ExportTotals:
    source, chooser = shared.source(task.stretch)
    totals = ExportTotals(rows=task.rows, annotations=task.annotations)
    writer = PartWriter(shared.frame, shared.format, totals, task.number)
    selection, share = shared.frame.selection, shared.decode_bytes
    with closing(TakenImages(source, chooser, selection, None, shared.format, decode_bytes=share)) as taken:
        writer.write(taken.units(ExportTotals(rows=task.rows)))
    if writer.number != task.number + 1:
        raise LabelerError(f"internal error: part {task.number} ended where it was not counted to end")
    totals.rows -= task.rows
    totals.annotations -= task.annotations
    return totals

"""Export a run: choose, read pixels where needed, write part after part, continue after the last finished one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from labeler import storage
from labeler.byte_budget import DECODE_BYTES
from labeler.errors import Incomplete, Refused, StorageError
from labeler.exports import in_processes, state
from labeler.exports.formats import Format, Frame
from labeler.exports.picks import Picks, needs_picks, pick, require_group_column
from labeler.exports.sampled import HandedOut
from labeler.exports.selection import ChosenImage, Selection, Selector
from labeler.exports.totals import ExportTotals
from labeler.exports.writing import ExportedRun, PartWriter, TakenImages, remove_leftovers
from labeler.runs import Snapshot
from labeler.runs.erasure.made import note_made
from labeler.runs.sums_of_units import processes_for


@dataclass(frozen=True)
class ExportSummary:
    """Summary of what an export wrote.

    Attributes:
        picks: None if the images did not have to be read twice.
        parts: how many were written, those of earlier tries included.
    """

    uri: str
    totals: ExportTotals
    picks: Picks | None
    parts: int


def export_run(
    snapshot: Snapshot,
    selection: Selection,
    format_: Format,
    target: str,
    *,
    single_file: bool = False,
    processes: int | None = None,
) -> ExportSummary:
    """Write the selected images and boxes of a run.

    Rows are streamed in key order; memory holds some units, one part's row groups, and with `Picks` some 45 to 225
    bytes an image. Each finished part is noted under `.labeler/` in the target. An export that stopped continues after
    the last one if it is asked for the same thing, and temporary files of a killed one are removed. Equal exports write
    equal files.

    Args:
        target: a folder or URI; with `single_file` the one file that the format writes (COCO, LVIS, ODVG), which is
            replaced as a whole.
        processes: that share the work if the format's parts allow it; None: one for each CPU, if the run is large.

    Raises:
        Refused: the selection makes no sense for this run, or the folder holds another export.
        Incomplete: storage failed on the way: run it again.
    """
    run = snapshot.run
    run.s3_rules(target).apply()
    source = ExportedRun(snapshot)
    require_group_column(selection, run.keep)
    if clash := sorted(format_.reserved & set(run.keep)):
        raise Refused(f"--to {format_.name} has a column {clash[0]!r} of its own, and the run kept one of that name")
    chooser = source.chooser(selection)
    categories = tuple(
        category
        for category in run.vocabulary().categories
        if not category.negative and (selection.categories is None or category.id in selection.categories)
    )
    if bad := format_.describe_bad_names(categories):
        raise Refused(f"--to {format_.name}: {bad}: choose others with --categories, or another format")
    frame = Frame(run, categories, selection.splits.names, target, selection)
    asked = state.describe(snapshot, selection, format_)
    if selection.where is not None:  # what DuckDB says only of rows it says now, before anything is written
        next(source.choices(chooser, masks=False), None)
    if selection.sample is not None:  # boxes that are not those that were drawn, too
        _require_sample(source, selection.sample, chooser, format_)
    totals, number = (ExportTotals(), 0) if single_file else state.begin(target, asked)
    # Not before: what was refused is none of the run's, and nothing is written.
    note_made(run, storage.absolute_uri(target))
    remove_leftovers(target)
    note = None if single_file else partial(state.note_part, target)
    writer = PartWriter(frame, format_, totals, number, single_file=single_file, note=note)
    try:
        picks = _pick(source, selection) if needs_picks(selection) else None
        if processes is None:
            together = DECODE_BYTES if format_.needs_pixels else 0
            processes = processes_for(len(source.committed) - totals.units, together=together)
        if processes > 1 and not single_file and in_processes.can_share(format_, frame, picks):
            in_processes.write(source, writer, processes)
        else:
            with closing(TakenImages(source, chooser, selection, picks, format_)) as taken:
                writer.write(taken.units(totals))
        writer.write_end_files()
        if not single_file:
            state.finish(target, asked, totals, writer.number)
    except StorageError as error:
        raise Incomplete(f"{error}; the export stopped, the same command continues with it") from error
    return ExportSummary(target, totals, picks, writer.number)


def _require_sample(source: ExportedRun, sample: HandedOut, chooser: Selector, format_: Format) -> None:
    """Raise Refused if the run does not have the sample's boxes, or the format cannot hold them."""
    rows = 0
    for _, choice in source.choices(chooser, masks=False):
        rows += choice.rows
        for _, image in choice.chosen:
            if bad := format_.describe_bad_image(image):
                raise Refused(f"--to {format_.name}: {bad}")
    sample.require_rows(rows)


def _pick(source: ExportedRun, selection: Selection) -> Picks:
    rows = 0

    def chosen() -> Iterator[ChosenImage]:
        nonlocal rows
        for _, choice in source.choices(source.chooser(selection), masks=False):
            rows += choice.rows
            yield from (image for _, image in choice.chosen)

    return pick(chosen(), lambda: rows, selection)

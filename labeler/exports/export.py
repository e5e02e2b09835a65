"""Export a run: choose, read pixels where needed, write part after part, continue after the last finished one."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from labeler import owners, storage
from labeler.digests import digest_of
from labeler.errors import Incomplete, Refused, StorageError
from labeler.exports import state
from labeler.exports.crowded_images import handed_out
from labeler.exports.formats import Format, Frame, Part
from labeler.exports.picks import Picks, needs_picks, pick, require_group_column, split_of
from labeler.exports.pixels import PixelReader, Pixels
from labeler.exports.selection import ChosenImage, Selection, Selector, UnitChoice
from labeler.exports.totals import ExportTotals
from labeler.runs import Snapshot, UnitKey
from labeler.runs.erasure.excluded import Excluded, read_excluded
from labeler.runs.erasure.made import note_made

Ready = tuple[list[tuple[ChosenImage, Pixels | None]], UnitChoice]


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote.

    Attributes:
        picks: None if the images did not have to be read twice.
        parts: how many were written, those of earlier tries included.
    """

    uri: str
    totals: ExportTotals
    picks: Picks | None
    parts: int


@dataclass(frozen=True)
class ExportedRun:
    """The run that is exported, as far as it is committed."""

    snapshot: Snapshot

    def chooser(self, selection: Selection) -> Selector:
        run = self.snapshot.run
        return Selector(selection, self.snapshot.prefixes, run.keep, run.columns)

    @cached_property
    def committed(self) -> frozenset[UnitKey]:
        return frozenset(self.snapshot.unit_keys())

    @cached_property
    def excluded(self) -> Excluded:
        return read_excluded(self.snapshot.run)

    def choices(
        self, chooser: Selector, *, masks: bool, units_done: int = 0, rows_done: int = 0
    ) -> Iterator[tuple[UnitKey, UnitChoice]]:
        """Unit after unit, judged, its boxes with their `masks` or without; those that are done are not read."""
        sample, keys = chooser.selection.sample, self.snapshot.unit_keys()
        keys = keys if sample is None else [key for key in sample.units if key in self.committed]
        left = self.snapshot.only(keys[units_done:])
        for unit, table in left.units(chooser.columns if masks else chooser.columns_without_masks):
            table = self.excluded.hide(table, left.prefixes[unit[0]])  # labeled after somebody asked to forget it
            choice = chooser.choose(table, rows_done + 1, masks=masks)
            rows_done += choice.rows
            yield unit, choice


def export_run(
    snapshot: Snapshot,
    selection: Selection,
    format_: Format,
    target: str,
    *,
    single_file: bool = False,
) -> ExportSummary:
    """Write the selected images and boxes of a run.

    Rows are streamed in key order; memory holds some units, one part's row groups, and with `Picks` some 45 to 225
    bytes an image. Each finished part is noted under `.labeler/` in the target. An export that stopped continues after
    the last one if it is asked for the same thing, and temporary files of a killed one are removed. Equal exports write
    equal files.

    Args:
        target: a folder or URI; with `single_file` the one file that the format writes (COCO, LVIS, ODVG), which is
            replaced as a whole.

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
        selection.sample.require_rows(sum(choice.rows for _, choice in source.choices(chooser, masks=False)))
    totals, number = (ExportTotals(), 0) if single_file else state.begin(target, asked)
    # Not before: what was refused is none of the run's, and nothing is written.
    note_made(run, storage.absolute_uri(target))
    remove_leftovers(target)
    writer = _Writer(frame, format_, totals, number, single_file=single_file)
    try:
        picks = _pick(source, selection) if needs_picks(selection) else None
        with closing(_TakenImages(source, chooser, selection, picks, format_)) as taken:
            writer.write(taken.units(totals))
        if not single_file:
            state.finish(target, asked, totals, writer.number)
    except StorageError as error:
        raise Incomplete(f"{error}; the export stopped, the same command continues with it") from error
    return ExportSummary(target, totals, picks, writer.number)


def _pick(source: ExportedRun, selection: Selection) -> Picks:
    rows = 0

    def chosen() -> Iterator[ChosenImage]:
        nonlocal rows
        for _, choice in source.choices(source.chooser(selection), masks=False):
            rows += choice.rows
            yield from (image for _, image in choice.chosen)

    return pick(chosen(), lambda: rows, selection)


class _TakenImages:
    """The images that are taken, unit by unit, with their pixels where the format needs them."""

    def __init__(
        self, source: ExportedRun, chooser: Selector, selection: Selection, picks: Picks | None, format_: Format
    ) -> None:
        self._source, self._chooser, self._selection, self._picks = source, chooser, selection, picks
        self._masks = format_.needs_masks
        self._reader = PixelReader(source.snapshot) if format_.needs_pixels else None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def units(self, done: ExportTotals) -> Iterator[Ready]:
        choices = self._source.choices(self._chooser, masks=self._masks, units_done=done.units, rows_done=done.rows)
        picked = ((unit[1], self._with_splits(choice), choice) for unit, choice in choices)
        if self._reader is None:
            for _, images, choice in picked:
                yield [(image, None) for image in images], choice
        else:
            for _, pairs, choice in self._reader.ahead(picked):
                yield list[tuple[ChosenImage, Pixels | None]](pairs), choice

    def _with_splits(self, choice: UnitChoice) -> list[ChosenImage]:
        names = self._selection.splits.names
        if self._picks is None and len(names) == 1:
            return [image for _, image in choice.chosen]
        taken = []
        for _, image in choice.chosen:
            place = split_of(image, self._selection) if self._picks is None else self._picks.split[image.image_id - 1]
            if place >= 0:
                taken.append(replace(image, split=names[place]))
        return taken


class _Writer:
    """Writes units into parts, and notes each finished part."""

    def __init__(self, frame: Frame, format_: Format, totals: ExportTotals, number: int, *, single_file: bool) -> None:
        self._frame, self._format, self._totals, self._single_file = frame, format_, totals, single_file
        self.number = number
        self._part: tuple[Part, Path] | None = None

    def write(self, units: Iterable[Ready]) -> None:
        try:
            for pairs, choice in units:
                part = self._open()
                for image, pixels in pairs:
                    for one, its_pixels in handed_out(image, pixels, self._format.most_boxes):
                        part.add(one, its_pixels)
                    self._totals.add(image, pixels)
                self._totals.end_unit(choice, [image for image, _ in pairs])
                if part.is_full:
                    self._end_part()
            if self.number == 0:
                self._open()  # an export of nothing is an export, too
            self._end_part()
            for relative, data in self._format.end_files(self._frame, self._totals, self.number).items():
                storage.put(self._place(relative), data)
        finally:
            if self._part is not None:
                shutil.rmtree(self._part[1], ignore_errors=True)

    def _open(self) -> Part:
        if self._part is None:
            folder = make_folder(self._frame.target)
            self._part = self._format.open_part(self._frame, self.number, self._totals, folder), folder
        return self._part[0]

    def _end_part(self) -> None:
        if self._part is None:
            return
        part, folder = self._part
        for relative, path in part.finish().items():
            storage.put_file(self._frame.target if self._single_file else self._place(relative), path)
        if not self._single_file:
            state.note_part(self._frame.target, self.number, self._totals)
        self.number += 1
        shutil.rmtree(folder, ignore_errors=True)
        self._part = None

    def _place(self, relative: str) -> str:
        """Where a file goes; beside the one file, named after it, where there is only one."""
        if not self._single_file:
            return storage.join(self._frame.target, relative)
        stem = storage.basename(self._frame.target).rpartition(".")[0]
        return storage.join(storage.parent(self._frame.target), f"{stem}_{relative}")


def make_folder(target: str) -> Path:
    """Return a new local folder for a part of the export to `target`."""
    return Path(tempfile.mkdtemp(prefix=f"{_prefix(target)}{owners.owner()}-"))


def remove_leftovers(target: str) -> None:
    """Remove the temporary files of exports to `target` whose processes were killed."""
    storage.remove_abandoned(target)
    name = re.compile(rf"{re.escape(_prefix(target))}({owners.PATTERN})-\w+")
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix(target)}*"):
        found = name.fullmatch(folder.name)
        if found and owners.is_gone(found[1]) and _is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix(target: str) -> str:
    digest = digest_of(storage.absolute_uri(target).encode("utf-8", "surrogateescape"), size=8)
    return f"labeler-export-{digest}-"


def _is_own_folder(folder: Path) -> bool:
    """Whether it is a folder, not a link, and of this user: others write to the system's temporary folder, too."""
    with suppress(OSError):
        return folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink()
    return False

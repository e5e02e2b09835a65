"""The images of an export, unit after unit, and the parts that they are written into."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from labeler import owners, storage
from labeler.byte_budget import DECODE_BYTES
from labeler.digests import digest_of
from labeler.exports.crowded_images import handed_out
from labeler.exports.formats import Format, Frame, Part
from labeler.exports.picks import Picks, split_of
from labeler.exports.pixels import PixelReader, Pixels
from labeler.exports.selection import ChosenImage, Selection, Selector, UnitChoice
from labeler.exports.totals import ExportTotals
from labeler.runs import Snapshot, UnitKey
from labeler.runs.erasure.excluded import Excluded, read_excluded

Ready = tuple[list[tuple[ChosenImage, Pixels | None]], UnitChoice]


@dataclass(frozen=True)
class ExportedRun:
    """The run that is exported, as far as it is committed.

    Attributes:
        known: the images to hide, if they have been read before.
    """

    snapshot: Snapshot
    known: Excluded | None = None

    def chooser(self, selection: Selection) -> Selector:
        run = self.snapshot.run
        return Selector(selection, self.snapshot.prefixes, run.keep, run.columns)

    @cached_property
    def committed(self) -> frozenset[UnitKey]:
        return frozenset(self.snapshot.unit_keys())

    @cached_property
    def excluded(self) -> Excluded:
        return read_excluded(self.snapshot.run) if self.known is None else self.known

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


class TakenImages:
    """The images that are taken, unit by unit, with their pixels where the format needs them."""

    def __init__(
        self,
        source: ExportedRun,
        chooser: Selector,
        selection: Selection,
        picks: Picks | None,
        format_: Format,
        *,
        decode_bytes: int = DECODE_BYTES,
    ) -> None:
        self._source, self._chooser, self._selection, self._picks = source, chooser, selection, picks
        self._masks = format_.needs_masks
        self._reader = PixelReader(source.snapshot, decode_bytes) if format_.needs_pixels else None

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


class PartWriter:
    """Writes units into parts.

    Args:
        totals: of the export so far; they grow.
        number: of the next part.
        note: called with its number and the totals when a part is written.
    """

    def __init__(
        self,
        frame: Frame,
        format_: Format,
        totals: ExportTotals,
        number: int,
        *,
        single_file: bool = False,
        note: Callable[[int, ExportTotals], None] | None = None,
    ) -> None:
        self.frame, self.format, self.totals, self._single_file = frame, format_, totals, single_file
        self._note, self.number = note, number
        self._part: tuple[Part, Path] | None = None

    def write(self, units: Iterable[Ready]) -> None:
        try:
            for pairs, choice in units:
                part = self._open()
                for image, pixels in pairs:
                    for one, its_pixels in handed_out(image, pixels, self.format.most_boxes):
                        part.add(one, its_pixels)
                    self.totals.add(image, pixels)
                self.totals.end_unit(choice, [image for image, _ in pairs])
                if part.is_full:
                    self._end_part()
            if self.number == 0:
                self._open()  # an export of nothing is an export, too
            self._end_part()
        finally:
            if self._part is not None:
                shutil.rmtree(self._part[1], ignore_errors=True)

    def write_end_files(self) -> None:
        for relative, data in self.format.end_files(self.frame, self.totals, self.number).items():
            storage.put(self._place(relative), data)

    def _open(self) -> Part:
        if self._part is None:
            folder = make_folder(self.frame.target)
            self._part = self.format.open_part(self.frame, self.number, self.totals, folder), folder
        return self._part[0]

    def _end_part(self) -> None:
        if self._part is None:
            return
        part, folder = self._part
        for relative, path in part.finish().items():
            storage.put_file(self.frame.target if self._single_file else self._place(relative), path)
        shutil.rmtree(folder, ignore_errors=True)
        self._part = None
        self.end_part()

    def end_part(self) -> None:
        """Note the part as written, by this process or another, and count on."""
        if self._note is not None:
            self._note(self.number, self.totals)
        self.number += 1

    def _place(self, relative: str) -> str:
        """Return where a file goes; beside the one file, named after it, where there is only one."""
        if not self._single_file:
            return storage.join(self.frame.target, relative)
        stem = storage.basename(self.frame.target).rpartition(".")[0]
        return storage.join(storage.parent(self.frame.target), f"{stem}_{relative}")


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
    """Return whether it is a folder, not a link, and of this user: others write to the system's
    temporary folder, too.
    """
    with suppress(OSError):
        return folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink()
    return False

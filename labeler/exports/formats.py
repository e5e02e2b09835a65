"""What a format is to the export: files of one part, and files at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage, Selection
from labeler.exports.splits import ALL
from labeler.exports.totals import Totals
from labeler.runs import Run
from labeler.vocabulary import Category


@dataclass(frozen=True)
class Frame:
    """What every file of an export may say of the run.

    Attributes:
        categories: those of the export, in the vocabulary's order, negatives left out; positions are class indices.
        splits: names.
        target: where the export goes; formats that write single images put them there themselves.
        selection: what was asked for.
    """

    run: Run
    categories: tuple[Category, ...]
    splits: tuple[str, ...]
    target: str
    selection: Selection

    def class_of(self) -> dict[int, int]:
        """Category id -> class index, 0-based."""
        return {category.id: place for place, category in enumerate(self.categories)}


class Part(Protocol):
    """One part's files while they are written, on local disk."""

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None: ...

    @property
    def is_full(self) -> bool:
        """Asked after each unit."""

    def finish(self) -> Mapping[str, Path]:
        """Path in the export -> local file, of all that has to be uploaded."""


class Format(Protocol):
    """A format with its settings."""

    @property
    def name(self) -> str: ...

    @property
    def needs_pixels(self) -> bool: ...

    @property
    def needs_masks(self) -> bool:
        """Whether it writes them; if not, they are not read."""

    @property
    def reserved(self) -> frozenset[str]:
        """Names that a column kept by the user must not have, because the format has its own under it."""

    def open_part(self, frame: Frame, number: int, start: Totals, folder: Path) -> Part: ...

    def end_files(self, frame: Frame, totals: Totals, parts: int) -> Mapping[str, bytes]:
        """Small files that are written last: path -> content."""


def part_name(split: str, number: int, extension: str, *, only: bool = False) -> str:
    """`train-00003.json`; `train.json` where there is only one part, `labels-00003.json` without splits."""
    stem = "labels" if split == ALL else split
    return f"{stem}.{extension}" if only else f"{stem}-{number:05d}.{extension}"

"""What every reader of a corrected file makes of it: reviewed images with boxes in pixels, and all problems at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.errors import Refused, first_lines
from labeler.exports.crowded import TaskCrop
from labeler.labels.masks import Mask

COMPLETE, BOXES = "complete", "boxes"  # as the column `review` has it
FORMATS = ("label-studio", "cvat", "x-anylabeling", "coco", "marks")
NEW = -1  # the place of a box that has no id of the run

MAX_ELEMENT_BYTES = 64 << 20  # one task or image of a JSON file; whole files may have any size
_MAX_PROBLEMS = 20  # lines printed
_ROW = re.compile(r"(\d{6,18})[/-](\d{1,18})")
_BOX = re.compile(r"(\d{6,18})[/-](\d{1,18})[/-](\d{1,9})")

RowKey = tuple[str, int]  # shard id, index
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reviewed:
    """One image that a person reviewed.

    Attributes:
        where: its place in the file, for messages.
        name: its file name in the tool; "" if the file has none.
        row: of the run, if labeler's id came back.
        digest: of the image, if that came back; "" otherwise.
        state: COMPLETE or BOXES.
        size: (height, width) of the upright image as the file has it; None if it does not say.
        boxes: (n, 4) xyxy in pixels of the upright image, as drawn.
        labels: (n,) names of categories.
        places: (n,) of each box among the row's detections, NEW without an id.
        masks: (n,) the mask that came back with each box; None if none did.
        shown: places of the boxes that the reviewer was shown; None if the file does not say.
        asked: places of the boxes that a sample asked about; None for a whole image. All others count only if they were
            changed.
        removed: with BOXES: places of boxes that are wrong. All others without a box here are as they were.
        crop: the part of the image that this is; None for a whole image.
        owners: (n,) the row that each box's id names, None without an id; empty if all are of the image's own row.
    """

    where: str
    name: str
    row: RowKey | None
    digest: str
    state: str
    size: tuple[int, int] | None
    boxes: Floats
    labels: tuple[str, ...]
    places: npt.NDArray[np.int64]
    masks: tuple[Mask | None, ...] | None = None
    shown: frozenset[int] | None = None
    asked: frozenset[int] | None = None
    removed: frozenset[int] = frozenset()
    crop: TaskCrop | None = None
    owners: tuple[RowKey | None, ...] = ()

    def of_row(self, key: RowKey) -> Reviewed:
        """Return the image as one of this row: boxes with an id of another row, which were pasted, lose it."""
        if not self.owners:
            return self
        pasted = [owner is not None and owner != key for owner in self.owners]
        return replace(self, places=np.where(pasted, NEW, self.places))


@dataclass
class Intake:
    """The content of one corrected file that was read so far.

    Attributes:
        source: the file, for messages.
        run_id: of the run that is corrected.
        envelopes: take the upright envelope of shapes that are not upright boxes; they are problems otherwise.
        unreviewed, skipped: images that nobody reviewed, and that somebody chose to skip.
        enveloped: shapes of which the envelope was taken.
        names_run: whether the file said that it is about this run.
    """

    source: str
    run_id: str
    envelopes: bool = False
    images: list[Reviewed] = field(default_factory=list)
    unreviewed: int = 0
    skipped: int = 0
    enveloped: int = 0
    names_run: bool = False
    problems: list[str] = field(default_factory=list)

    def refuse(self) -> None:
        """Raise Refused if anything in the file is wrong, with all of it."""
        if self.problems:
            raise refused(self.source, self.problems)

    def require_run(self, run_id: Any) -> None:
        """Raise Refused if the file says that it is about another run."""
        if not isinstance(run_id, str) or not run_id:
            return
        if run_id != self.run_id:
            raise Refused(
                f"corrections {self.source} are of run {run_id[:40]}, this is run {self.run_id}: give the run that was "
                "exported; its reviews come to another run with --from-run"
            )
        self.names_run = True

    def crop(self, value: Any, where: str) -> TaskCrop | None:
        """Return the crop that `labeler_crop` says; None for a whole image, or where the problem was noted."""
        if value is None:
            return None
        try:
            return TaskCrop.of_json(value)
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None

    def asked(self, value: Any, where: str) -> frozenset[int] | None:
        """Return the places of a sample's boxes that `labeler_boxes` lists; None for a whole image, or a problem."""
        if value is None:
            return None
        ids = [each.get("box") for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
        places = [box_place(id_, None)[1] for id_ in ids]
        if not isinstance(value, list) or len(places) != len(value) or NEW in places:
            self.problems.append(f"{where}: `labeler_boxes` must list boxes of the sample, as the export wrote them")
            return None
        return frozenset(places)

    def upright(self, corners: Any, where: str, what: str) -> list[float] | None:
        """Return the envelope of (k, 2) corners that are not an upright box, or note the problem."""
        if not self.envelopes:
            self.problems.append(f"{where}: {what}; draw an upright box, or take the box around it with --envelopes")
            return None
        points = np.asarray(corners, np.float64).reshape(-1, 2)
        self.enveloped += 1
        return [*points.min(0).tolist(), *points.max(0).tolist()]


def refused(source: str, problems: Sequence[str]) -> Refused:
    """Return the one error for all problems of a corrected file."""
    if len(problems) == 1:
        return Refused(f"corrections {source}: {problems[0]}")
    return Refused(f"corrections {source}: {len(problems):,} problems", first_lines(problems, _MAX_PROBLEMS))


class ReviewedBoxes:
    """The boxes of one image while they are read."""

    def __init__(self, row: RowKey | None) -> None:
        self._row = row
        self._owners: list[RowKey | None] = []
        self._corners: list[list[float]] = []
        self._labels: list[str] = []
        self._places: list[int] = []
        self._masks: list[Mask | None] = []

    def add(self, corners: list[float], label: str, own: Any, mask: Mask | None = None) -> None:
        """Add a box; `own` is what the file has as its id, of the run or not."""
        owner, place = box_place(own, self._row)
        self._owners.append(None if place == NEW else owner)
        self._corners.append(corners)
        self._labels.append(label)
        self._places.append(place)
        self._masks.append(mask)

    def image(self, **about: Any) -> Reviewed:
        """Return the image with these boxes; `about` are its other attributes."""
        return Reviewed(
            boxes=np.array(self._corners, np.float64).reshape(-1, 4),
            labels=tuple(self._labels),
            row=self._row,
            owners=tuple(self._owners),
            places=np.array(self._places, np.int64),
            masks=tuple(self._masks) if any(mask is not None for mask in self._masks) else None,
            **about,
        )


def row_key(text: Any) -> RowKey | None:
    """Return (shard id, index) of an id of a row as exports write it, None for anything else."""
    found = _ROW.fullmatch(text) if isinstance(text, str) else None
    return (found[1], int(found[2])) if found else None


def box_place(text: Any, row: RowKey | None) -> tuple[RowKey | None, int]:
    """Return (row, place in it) of a box's id as exports write it; (row, NEW) for other ids, and those of other rows.

    Args:
        row: of the image that the box is in, if that is known. Pasted boxes keep the id of another image's box.
    """
    found = _BOX.fullmatch(text) if isinstance(text, str) else None
    if not found:
        return row, NEW
    mine = found[1], int(found[2])
    return (row, NEW) if row is not None and mine != row else (mine, int(found[3]))


def are_numbers(values: Any, count: int | None = None) -> bool:
    """Return whether a value is a list of finite numbers, `count` of them if given."""
    if not isinstance(values, list | tuple) or (count is not None and len(values) != count):
        return False
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9  # NaN is not
        for v in values
    )


def shown_places(text: Any) -> frozenset[int] | None:
    """Return the places that `labeler_shown` lists; None if it does not."""
    if not isinstance(text, str) or not all(word.isdecimal() and len(word) < 10 for word in text.split()):
        return None
    return frozenset(int(word) for word in text.split())

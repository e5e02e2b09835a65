"""What goes into an export: which boxes of an image, and which images; a unit's rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeler.exports.crowded import TaskCrop
from labeler.exports.sampled import HandedOut, SampledImage
from labeler.exports.splits import ALL, Splits
from labeler.exports.uncertain import BLANK, CROWD, LEAVE_OUT, Uncertain
from labeler.labels.boxes import area, iou
from labeler.labels.chosen_score import DETECTORS, ChosenScore
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.merge import survive_across_categories
from labeler.labels.records import BOXES, LABELED, LABELS, widened
from labeler.labels.thresholds import Thresholds

if TYPE_CHECKING:
    from labeler.exports.sql import Where

_COLUMNS = ("image_key", "shard_id", "index", "uri", "offset", "length", "digest", "width", "height", "orientation")
Places = npt.NDArray[np.intp]
_MANY = 256  # boxes; of more, overlaps are not computed all at once


@dataclass(frozen=True)
class Selection:
    """The boxes and images to export. Filters apply in the order of the attributes.

    A box that a person has reviewed leaves only with its image (`where`) or its category (`categories`): none of the
    other conditions is about it. With such a box an image has enough boxes, and is not excluded for uncertain ones.

    Attributes:
        where: SQL on the row's columns; None takes all.
        thresholds: a box needs at least its category's score.
        suppress_iou: of boxes that overlap more, only the best stays, whatever the categories; None keeps all. Before
            the next steps, so that a box of a category nobody asked for can still win its object.
        score_below: a box needs less than this score.
        categories: ids; None takes all.
        min_side: pixels, of the shorter side.
        min_area, max_area: square pixels, lower bound inclusive, upper exclusive.
        min_boxes, max_boxes: images with fewer or more boxes left are not selected.
        images_per_category: see `picks.py`.
        splits, group_by, near_copies: see `picks.py`; `near_copies` is in bits, -1 for off.
        uncertain: as `uncertain.py` has it; None for nothing.
        score: of a box, that all of these are about.
        sample: only its images, first of all; None takes all.
    """

    where: str | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    suppress_iou: float | None = None
    score_below: float | None = None
    categories: frozenset[int] | None = None
    min_side: float = 0.0
    min_area: float = 0.0
    max_area: float | None = None
    min_boxes: int = 0
    max_boxes: int | None = None
    images_per_category: int | None = None
    splits: Splits = field(default_factory=Splits)
    group_by: str | None = None
    near_copies: int = -1
    uncertain: Uncertain | None = None
    score: ChosenScore = DETECTORS
    sample: HandedOut | None = None


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """One image of the export.

    Attributes:
        image_id: 1-based place of its row among all rows of the run, in key order: it never moves.
        row: the run's columns, without the detections.
        file_name: as COCO exports name it: "<shard>/<key>".
        detections: the boxes that were selected, with the chosen score.
        stored: all boxes that the run has, with the chosen score.
        places: (n,) the place of each selected box in `stored`.
        ignored: (place in `stored` of each) uncertain boxes that are written as regions to ignore.
        blanked: uncertain boxes that are painted over.
        detector_scores: (n,) the detector's score of each selected box; None: the chosen one is that.
        crop: the part of the row's image that this is; None for all of it. `detections` and size are the crop's.
        sampled: which of its boxes are to be judged, and how they were drawn; None without a sample.
    """

    image_id: int
    row: Mapping[str, Any]
    file_name: str
    detections: Detections
    stored: Detections
    places: Places
    split: str = ALL
    ignored: Places | None = None
    blanked: Detections | None = None
    detector_scores: npt.NDArray[np.float32] | None = None
    sampled: SampledImage | None = None
    crop: TaskCrop | None = None

    @property
    def row_id(self) -> str:
        return f"{self.row['shard_id']}/{self.row['index']:06d}"

    @property
    def file_id(self) -> str:
        """Return what its files are named by: the row, and the number of the crop if it is one."""
        return self.row_id + ("" if self.crop is None else self.crop.suffix)

    @property
    def stem(self) -> str:
        """The same as one file name without a dot, where all images are in one folder or tar."""
        return self.file_id.replace("/", "-")

    @property
    def box_ids(self) -> list[str]:
        """`<row id>/<place in the row's stored detections>` of each box: by these a corrected file is read back."""
        return self.ids_of(self.places)

    def ids_of(self, places: Places) -> list[str]:
        """As `box_ids`, of the stored boxes at these places."""
        return [f"{self.row_id}/{place}" for place in places.tolist()]


@dataclass(frozen=True)
class UnitChoice:
    """One unit's rows, judged.

    Attributes:
        chosen: (position in the unit, image) of the selected ones, in order.
        failed: statuses of rows that could not be labeled.
        rows: how many the unit has.
    """

    chosen: list[tuple[int, ChosenImage]]
    failed: list[str]
    rows: int


class Selector:
    """Applies a selection to one unit after the other, but for what needs all of them (`picks.py`)."""

    def __init__(
        self,
        selection: Selection,
        prefixes: Mapping[str, str],
        keep: Sequence[str] = (),
        columns: Sequence[str] = (),
    ) -> None:
        """
        Args:
            keep, columns: what the run has beside the columns of every run: kept by the user, and optional ones.
        """
        self.selection, self._prefixes, self._keep, self._optional = selection, prefixes, tuple(keep), columns
        self._where: Where | None = None
        if selection.where is not None:
            from labeler.exports.sql import Where  # imports DuckDB, which few exports need

            self._where = Where(selection.where, keep, columns, selection.score)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Return what has to be read of the run; None for all, where some files lack an optional column that others
        have.
        """
        if self._where is not None:
            return None if self._optional else (*LABELS.names, *self._keep)
        return (*_COLUMNS, "phash", "status", "detections", *self._keep)

    @property
    def columns_without_masks(self) -> tuple[str, ...] | None:
        """As `columns`, where masks are not needed: they take most of the time to read."""
        columns = self.columns
        if columns is None or self._where is not None:
            return columns
        return tuple(BOXES if name == "detections" else name for name in columns)

    def choose(self, table: pa.Table, first_image_id: int, *, masks: bool = True) -> UnitChoice:
        """Judge a unit; image ids count from `first_image_id` over all its rows. Without `masks` boxes have none."""
        if self.selection.sample is not None:
            table = table.take(self.selection.sample.places(table))
        statuses = table["status"].to_pylist()
        good = np.array([status in LABELED for status in statuses], np.bool_)
        if self._where is not None:
            good &= self._where.rows(widened(table, self._keep, self._optional) if self._optional else table)
        as_stored = DetectionsColumn(table).per_row(masks=masks)
        every = [self.selection.score.apply(found) for found in as_stored]
        plain = table.drop_columns(["detections"]).to_pylist()
        chosen = []
        for place, row, (boxes, uncertain) in zip(range(len(plain)), plain, self._boxes(every), strict=True):
            if good[place] and self._is_wanted(boxes[0], uncertain):
                file_name = self._prefixes[row["shard_id"]] + row["image_key"]
                image = ChosenImage(first_image_id + place, row, file_name, *boxes)
                if not self.selection.score.is_detectors:
                    image = replace(image, detector_scores=as_stored[place].scores[image.places])
                chosen.append((place, self._as_sampled(self._with_uncertain(image, uncertain))))
        return UnitChoice(chosen, [status for status in statuses if status not in LABELED], len(plain))

    def _as_sampled(self, image: ChosenImage) -> ChosenImage:
        """The image with its place in the run and its drawn boxes; Refused if it has other boxes than when sampled."""
        sample = self.selection.sample
        if sample is None:
            return image
        found = sample.images[image.row["shard_id"], image.row["index"]]
        sample.require_boxes(found, image.stored, image.places)
        return replace(image, image_id=found.image_id, sampled=found)

    def kept(self, detections: Detections) -> Places:
        """Places of an image's boxes that are selected."""
        return next(self._boxes([detections]))[0][2]

    def _is_wanted(self, kept: Detections, uncertain: Places | None) -> bool:
        most, boxes = self.selection.max_boxes, len(kept)
        has_enough = boxes >= self.selection.min_boxes and (most is None or boxes <= most)
        return (has_enough and not self._is_left_out(uncertain)) or bool(kept.reviewed.any())

    def _is_left_out(self, uncertain: Places | None) -> bool:
        asked = self.selection.uncertain
        return asked is not None and asked.treatment == LEAVE_OUT and uncertain is not None and len(uncertain) > 0

    def _with_uncertain(self, image: ChosenImage, uncertain: Places | None) -> ChosenImage:
        asked = self.selection.uncertain
        if asked is None or uncertain is None or not len(uncertain):
            return image
        if asked.treatment == CROWD:
            return replace(image, ignored=uncertain)
        return replace(image, blanked=image.stored[uncertain]) if asked.treatment == BLANK else image

    def _boxes(self, every: list[Detections]) -> Iterator[tuple[tuple[Detections, Detections, Places], Places | None]]:
        """((selected, stored, places), places of uncertain ones) of each row.

        Thresholds are compared for the whole unit at once, the rest image by image.
        """
        together = Detections.concat(every)
        limits = self.selection.thresholds.limits(together.category_ids)
        above = (together.scores >= limits) | together.reviewed
        asked = self.selection.uncertain
        between = None if asked is None else asked.between(together.scores, limits)
        start = 0
        for stored in every:
            mine = slice(start, start + len(stored))
            places = np.flatnonzero(above[mine])
            start += len(stored)
            if self.selection.suppress_iou is not None:
                places = places[unsuppressed(stored[places], self.selection.suppress_iou)]
            kept = stored[places]
            unsure = None if between is None else self._unsure(stored, kept, np.flatnonzero(between[mine]))
            if len(kept):
                wanted = self._wanted(kept)
                kept, places = kept[wanted], places[wanted]
            yield (kept, stored, places), unsure

    def _unsure(self, stored: Detections, certain: Detections, places: Places) -> Places:
        """Places of the uncertain boxes that are asked for, but those of an object that a certain one has."""
        if not len(places):
            return places
        found = stored[places]
        wanted = self._wanted(found)
        if self.selection.suppress_iou is not None and len(certain):
            wanted &= ~(iou(found.boxes, certain.boxes) > self.selection.suppress_iou).any(1)
        return places[wanted]

    def _wanted(self, kept: Detections) -> npt.NDArray[np.bool_]:
        asked = self.selection
        wanted = np.ones(len(kept), np.bool_)
        if asked.score_below is not None:
            wanted &= kept.scores < np.float32(asked.score_below)
        if asked.min_side:
            wanted &= (kept.boxes[:, 2:] - kept.boxes[:, :2]).min(1) >= asked.min_side
        if asked.min_area or asked.max_area is not None:
            sizes = area(kept.boxes)
            wanted &= (sizes >= asked.min_area) & (sizes < (np.inf if asked.max_area is None else asked.max_area))
        wanted |= kept.reviewed
        if asked.categories is not None:
            wanted &= np.isin(kept.category_ids, list(asked.categories))
        return wanted


def unsuppressed(detections: Detections, iou_above: float) -> Places:
    """Places of those that stay where boxes suppress each other across categories, best first.

    Done at once where no two boxes overlap that much: nearly every image.
    """
    order = detections.order()
    if len(detections) < 2:
        return order
    if len(detections) <= _MANY:
        overlaps = iou(detections.boxes, detections.boxes)
        np.fill_diagonal(overlaps, 0)
        if not (overlaps > iou_above).any():
            return order
    return order[survive_across_categories(detections, iou_above=iou_above)[order]]

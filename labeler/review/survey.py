"""Read a run's rows once: everything that its report counts, and which images it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES, STATUSES
from labeler.labels.thresholds import Thresholds
from labeler.labels.unit_work import UnitWork
from labeler.review.reservoir import Ints, Reservoir
from labeler.review.reviews import Reviews
from labeler.runs import Progress, Run, Snapshot, UnitKey, layout
from labeler.runs.timeline import committed_at
from labeler.vocabulary import Category

STEPS = 100  # score thresholds are 0.00, 0.01, ..., 1.00; histograms count between two of them, and a score of 1
EDGES = (np.arange(STEPS + 1) / STEPS).astype(np.float32)  # as exports compare: a float32 0.3 is at least 0.3
BANDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)  # galleries: from each to the next, the last up to 1
SUSPICIONS = ("many", "whole", "repeated", "cap")
_WHOLE = 0.95  # part of the image, from which on a box covers "all" of it
_GRID = 24  # cells along a side, for boxes that lie at the same place in many images
_PLACES = 1 << 20  # counters of such places: 8 MB
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: near places get distant counters
_REPEATED = 8  # fewer images with a box at one place are not pattern
_REASONS = 200  # reported
_DISTINCT_REASONS = 10_000  # counted: they are few, but a run where every error is another must not fill the memory
_COLUMNS = ("status", "error", "width", "height", BOXES)


@dataclass(frozen=True)
class Survey:
    """Contents of a run.

    Attributes:
        categories: those that can be found, by position below; negatives are none.
        statuses: images by status.
        reasons: (status, error, images), the most frequent first.
        histograms: (categories, STEPS + 1) boxes by score; place b counts `EDGES[b] <= score < EDGES[b + 1]`.
        unscored: boxes that have no score, which count as 1 above.
        at_cap: images with as many boxes as the run stores.
        timeline: (seconds since 1970, images) of each unit, by time; empty where the files and storage do not say.
        work: what labeling took.
        drawn: for each category and band (category * len(BANDS) + band) its sample: (n,) cells and
            (n, 3) unit number, row, box.
        suspicious: the same by position in SUSPICIONS; where no single box is meant, box is -1.
        units: the unit numbers above -> units.
        reviews: what people said of images and boxes.
    """

    categories: tuple[Category, ...]
    statuses: dict[str, int]
    reasons: list[tuple[str, str, int]]
    histograms: Ints
    unscored: int
    at_cap: int
    timeline: list[tuple[float, int]]
    work: UnitWork
    drawn: tuple[Ints, Ints]
    suspicious: tuple[Ints, Ints]
    units: tuple[UnitKey, ...]
    reviews: Reviews


def survey_run(snapshot: Snapshot, *, thresholds: Thresholds, each: int = 12, seed: int = 0) -> Survey:
    """Read every row once; memory does not grow with the number of images, but 100 bytes a unit.

    Args:
        thresholds: boxes below theirs make no image suspicious.
        each: boxes drawn of a category in a band, and images of a kind of suspicion.
    """
    surveyor = _Surveyor(snapshot.run, thresholds, each, seed)
    listed: dict[UnitKey, float] | None = None
    units: list[UnitKey] = []
    columns = (*_COLUMNS, *(name for name in snapshot.run.columns if name == "review"))
    for unit, table in snapshot.units(columns):
        surveyor.add(len(units), unit, table)
        units.append(unit)
        if (moment := committed_at(table.schema.metadata)) is None:
            listed = commit_times(snapshot.progress) if listed is None else listed
            moment = listed.get(unit)
        surveyor.timeline += [(moment, table.num_rows)] if moment is not None else []
    return surveyor.result(tuple(units))


def commit_times(progress: Progress) -> dict[UnitKey, float]:
    """Return when each unit was committed, by the storage's clock: for files of versions that wrote
    no time into them.
    """
    found: dict[UnitKey, float] = {}
    for folder, _ in reversed(progress.folders):  # units of a derived run over those of the run it derives from
        root = storage.join(folder, layout.LABELS_FOLDER)
        for info in storage.list_objects(root):
            match = layout.UNIT_FILE.fullmatch(info.uri.removeprefix(root).lstrip("/"))
            if match and info.modified is not None:
                found[match[1], int(match[2])] = info.modified
    return found


@dataclass(frozen=True)
class _Boxes:
    """A unit's detections as columns; `row` is each one's image in the unit, `box` its place there."""

    row: Ints
    box: Ints
    category: Ints  # position; -1 for one that the vocabulary does not have
    scores: npt.NDArray[np.float32]
    xyxy: npt.NDArray[np.float32]  # in parts of the image, 0..1; NaN where its size is not known

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> _Boxes:
        return _Boxes(self.row[chosen], self.box[chosen], self.category[chosen], self.scores[chosen], self.xyxy[chosen])


class _Surveyor:
    """Takes units one by one."""

    def __init__(self, run: Run, thresholds: Thresholds, each: int, seed: int) -> None:
        self._categories = tuple(c for c in run.vocabulary().categories if not c.negative)
        self._ids = np.array(sorted(c.id for c in self._categories), np.int64)
        position = {c.id: i for i, c in enumerate(self._categories)}
        self._position = np.array([position[int(id_)] for id_ in self._ids], np.int64)
        self._cap = int(run.manifest.config["detect"]["max_detections"])
        self._limits = thresholds.limits(np.array([c.id for c in self._categories], np.int32))  # by position
        self._seed = seed
        self._statuses: Counter[str] = Counter()
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._histograms = np.zeros(len(self._categories) * (STEPS + 1), np.int64)
        self._unscored = 0
        self._drawn = Reservoir(len(self._categories) * len(BANDS), each, 3)
        self._suspicious = Reservoir(len(SUSPICIONS), each, 3)
        self._places = np.zeros(_PLACES, np.int64)
        self._at_cap = 0
        self.timeline: list[tuple[float, int]] = []
        self._work = UnitWork()
        self._reviews = Reviews()

    def add(self, number: int, unit: UnitKey, table: pa.Table) -> None:
        self._count_statuses(table)
        self._work.add(UnitWork.from_metadata(table.schema.metadata))
        column = DetectionsColumn(table)
        self._reviews.add(table, column.detections)
        lengths = column.lengths
        rng = np.random.default_rng([self._seed, int(unit[0]), unit[1]])
        boxes = self._boxes(table, column)
        boxes = boxes[boxes.category >= 0]
        step = np.clip(np.searchsorted(EDGES, boxes.scores, side="right") - 1, 0, STEPS)
        self._histograms += np.bincount(boxes.category * (STEPS + 1) + step, minlength=len(self._histograms))
        self._unscored += int(column.detections.unscored.sum())
        band = np.searchsorted(np.asarray(BANDS, np.float32), boxes.scores, side="right") - 1
        cell = boxes.category * len(BANDS) + np.maximum(band, 0)
        entries = np.stack([np.full(len(boxes.row), number), boxes.row, boxes.box], 1)
        self._drawn.add(cell, rng.random(len(cell)), entries)
        self._suspect(number, lengths, boxes[boxes.scores >= self._limits[boxes.category]], rng)

    def _count_statuses(self, table: pa.Table) -> None:
        counted = table.select(["status", "error"]).group_by(["status", "error"]).aggregate([([], "count_all")])
        for pair in counted.to_pylist():
            self._statuses[pair["status"]] += pair["count_all"]
            reason = pair["status"], pair["error"]
            if pair["error"] is not None and (reason in self._reasons or len(self._reasons) < _DISTINCT_REASONS):
                self._reasons[reason] += pair["count_all"]

    def _boxes(self, table: pa.Table, column: DetectionsColumn) -> _Boxes:
        row, found = column.rows, column.detections
        place = np.minimum(np.searchsorted(self._ids, found.category_ids), len(self._ids) - 1)
        category = np.where(self._ids[place] == found.category_ids, self._position[place], -1)
        size = np.stack([pc.cast(table[side], pa.float32()).to_numpy() for side in ("width", "height")], 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            xyxy = found.boxes / np.tile(size, 2)[row]
        box = np.arange(len(row)) - np.repeat(np.cumsum(column.lengths) - column.lengths, column.lengths)
        return _Boxes(row, box, category, found.scores, xyxy.astype(np.float32))

    def _suspect(self, number: int, lengths: Ints, boxes: _Boxes, rng: np.random.Generator) -> None:
        per_row = np.bincount(boxes.row, minlength=len(lengths))
        many = np.flatnonzero(per_row > 0)
        self._report("many", number, many, np.full(len(many), -1), -per_row[many].astype(np.float64))
        if self._cap:
            capped = np.flatnonzero(lengths == self._cap)
            self._at_cap += len(capped)
            self._report("cap", number, capped, np.full(len(capped), -1), rng.random(len(capped)))
        sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
        whole = np.nan_to_num(sides[:, 0] * sides[:, 1]) >= _WHOLE
        self._report("whole", number, boxes.row[whole], boxes.box[whole], -boxes.scores[whole].astype(np.float64))
        boxes = boxes[np.isfinite(boxes.xyxy).all(1) & ~whole]
        grid = np.clip(np.round(boxes.xyxy * _GRID), 0, _GRID).astype(np.int64)
        place = boxes.category
        for side in range(4):
            place = place * (_GRID + 1) + grid[:, side]
        place = (place.astype(np.uint64) * _GOLDEN >> np.uint64(44)).astype(np.int64)  # multiplicative hash, 20 bits
        np.add.at(self._places, place, 1)
        seen = self._places[place]
        often = seen >= _REPEATED
        self._report("repeated", number, boxes.row[often], boxes.box[often], -seen[often].astype(np.float64))

    def _report(self, kind: str, number: int, row: Ints, box: Ints, priority: npt.NDArray[np.float64]) -> None:
        group = np.full(len(row), SUSPICIONS.index(kind))
        self._suspicious.add(group, priority, np.stack([np.full(len(row), number), row, box], 1))

    def result(self, units: tuple[UnitKey, ...]) -> Survey:
        shape = (len(self._categories), STEPS + 1)
        statuses: Mapping[str, int] = self._statuses
        return Survey(
            categories=self._categories,
            statuses={status: statuses[status] for status in STATUSES if status in statuses},
            reasons=[(*reason, count) for reason, count in self._reasons.most_common(_REASONS)],
            histograms=self._histograms.reshape(shape),
            unscored=self._unscored,
            at_cap=self._at_cap,
            timeline=sorted(self.timeline),
            work=self._work,
            drawn=self._drawn.result(),
            suspicious=self._suspicious.result(),
            units=units,
            reviews=self._reviews,
        )

"""Marked boxes: what a person said is right or wrong, read from JSON and checked against the run they are about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from labeler import plain_json, storage
from labeler.errors import Refused
from labeler.evaluation.average_precision import at_least
from labeler.labels.chosen_score import DETECTORS, SCORE2, ChosenScore
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES
from labeler.runs import Snapshot
from labeler.truth.ground_truth import MAX_PROBLEMS

_ROW_ID = re.compile(r"(\d{6,18})[/\\:-](\d{1,18})")  # shard id and index
_DIGEST = re.compile(r"[0-9a-f]{32}")
_SCORE_TOLERANCE = 1e-4  # browsers round
_COLUMNS = ("shard_id", "index", "digest", BOXES)


class Mark(BaseModel):
    """One box, as it was marked.

    Attributes:
        image: "000003/17" (shard id / index), or the image's digest.
        box: position in the row's detections.
        drawn: whether the box was chosen by chance among the run's boxes of its category and tenth of score; None if
            the file does not say.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    image: str
    box: int
    category_id: int
    score: float = Field(ge=0, le=1)
    right: bool
    drawn: bool | None = None

    @field_validator("image")
    @classmethod
    def _names_a_row(cls, image: str) -> str:
        row = _ROW_ID.fullmatch(image)
        if row is None and not _DIGEST.fullmatch(image):
            raise ValueError("no row and no digest")
        return f"{row[1]}/{int(row[2])}" if row else image


@dataclass(frozen=True)
class Marks:
    """A file of marks, unchecked but for its form; the last mark of a box counts.

    Attributes:
        weights: of each mark, how many boxes of the run it stands for; empty if all stand for equally many.
    """

    source: str
    run_id: str
    marks: tuple[Mark, ...]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class MarkedRun:
    """The marks and the run, as calibration needs them.

    Attributes:
        by_category: category id -> (n, 3) float64: score, 1.0 where right, and weight.
        boxes: category id -> (len(SCORE_THRESHOLDS),) the run's stored boxes with at least each score.
    """

    by_category: dict[int, npt.NDArray[np.float64]]
    boxes: dict[int, npt.NDArray[np.int64]]


def read_marks(uri: str) -> Marks:
    """Marks from JSON, `{"run": id, "marks": [{"image", "box", "category_id", "score", "right"}, ...]}`.

    Raises:
        Refused: not such a file; every bad entry named by its place.
    """
    shown = storage.redact(uri)
    try:
        values = plain_json.parse(storage.read_bytes(uri))
    except ValueError as error:
        raise Refused(f"marks {shown} are not JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("marks"), list) or not values.get("run"):
        raise Refused(f'marks {shown} must be an object with "run" and a list "marks", as a report writes them')
    problems: list[str] = []
    marks: dict[tuple[str, int], Mark] = {}
    for place, value in enumerate(values["marks"]):
        try:
            mark = Mark.model_validate(value)
            marks[mark.image, mark.box] = mark
        except ValidationError:
            problems.append(f"marks[{place}]: expected image, box, category_id, score and right, got {str(value)[:80]}")
    if problems or not marks:
        bad = f"{len(problems):,} bad entries of {len(values['marks']):,}" if problems else "no marks in it"
        raise Refused(f"marks {shown}: {bad}", problems[:MAX_PROBLEMS])
    return Marks(shown, str(values["run"]), tuple(marks.values()))


def collect_marks(snapshot: Snapshot, marks: Marks) -> MarkedRun:
    """Check each mark against the box it is about, and count the run's boxes by category and score. Streams the run.

    The scores are those that the snapshot is read with; a mark may have any score that a report shows of its box.

    Raises:
        Refused: marks of another run, or of images or boxes that the run does not have.
    """
    run_id = snapshot.run.manifest.run_id
    if marks.run_id != run_id:
        raise Refused(f"marks {marks.source} are of run {marks.run_id}, this is run {run_id}")
    wanted: dict[str, list[tuple[Mark, float]]] = {}
    for mark, weight in zip(marks.marks, marks.weights or [1.0] * len(marks.marks), strict=True):
        wanted.setdefault(mark.image, []).append((mark, weight))
    boxes: dict[int, npt.NDArray[np.int64]] = {}
    found: dict[int, list[tuple[float, float, float]]] = {}
    problems: list[str] = []
    stored = replace(snapshot, score=DETECTORS)
    for table in stored.tables(_COLUMNS):
        count_boxes(snapshot.score.apply(DetectionsColumn(table).detections), boxes)
        keys = zip(table["shard_id"].to_pylist(), table["index"].to_pylist(), table["digest"].to_pylist(), strict=True)
        for position, (shard_id, index, digest) in enumerate(keys):
            here = [*wanted.pop(f"{shard_id}/{index}", ()), *wanted.pop(digest or "", ())]
            if here:
                _judge(here, table.slice(position, 1), snapshot.score, found, problems)
    problems += [f"image {image}: the run has no such row" for image in wanted]
    if problems:
        raise Refused(
            f"marks {marks.source}: {len(problems):,} are not about boxes of this run", problems[:MAX_PROBLEMS]
        )
    return MarkedRun({id_: np.array(rows, np.float64) for id_, rows in found.items()}, boxes)


def _judge(
    marks: Sequence[tuple[Mark, float]],
    row: pa.Table,
    chosen: ChosenScore,
    found: dict[int, list[tuple[float, float, float]]],
    problems: list[str],
) -> None:
    detections = DetectionsColumn(row).per_row(masks=False)[0]
    scores = chosen.of(detections)
    # A report shows the detector's scores, second scores, or those that were fitted to both.
    shown = np.stack([detections.scores, ChosenScore(SCORE2, missing=-1.0).of(detections), scores])
    for mark, weight in marks:
        if not 0 <= mark.box < len(detections):
            problems.append(f"image {mark.image}: box {mark.box} of {len(detections)}")
            continue
        category_id, score = int(detections.category_ids[mark.box]), float(detections.scores[mark.box])
        if category_id != mark.category_id or abs(shown[:, mark.box] - mark.score).min() > _SCORE_TOLERANCE:
            problems.append(
                f"image {mark.image}: box {mark.box} is of category {category_id} with score {score:.4f}, "
                f"the mark says {mark.category_id} and {mark.score:.4f}"
            )
            continue
        found.setdefault(category_id, []).append((float(scores[mark.box]), float(mark.right), weight))


def count_boxes(found: Detections, boxes: dict[int, npt.NDArray[np.int64]]) -> None:
    """Add boxes to the counts of each category by score."""
    for id_ in np.unique(found.category_ids).tolist():
        boxes[id_] = boxes.get(id_, 0) + at_least(found.scores[found.category_ids == id_])

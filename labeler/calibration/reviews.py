"""A corrected run as marks: which boxes of the run before the review its reviewers found right, and which wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from labeler import storage
from labeler.calibration.marks import Mark, Marks, read_marks
from labeler.errors import Refused
from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES
from labeler.runs import Run, Snapshot, open_run, read_snapshot

_COMPLETE, _ADDED = "complete", "added"  # as the columns `review` and `source` have it
_RIGHT_IOU = 0.5  # of a box with the reviewed box of its category, as `evaluate` matches
_BEFORE = ("shard_id", "index", BOXES)

Verdicts = npt.NDArray[np.float64]


def read_judgments(uri: str, run: Run) -> Marks:
    """Read what people said of the boxes of a run: marks from a report, or a run that was corrected.

    Raises:
        Refused: as `read_marks` and `marks_of_reviews`.
    """
    is_file = uri.lower().endswith(".json") or storage.is_web(uri)
    corrected = None if is_file else open_run(storage.absolute_uri(uri))
    return read_marks(uri) if corrected is None else marks_of_reviews(corrected, run)


def marks_of_reviews(corrected: Run, run: Run) -> Marks:
    """Compare the reviewed images of a corrected run with the run that went out, box by box.

    A box is right if a reviewed box of its category overlaps it by an IoU of at least 0.5: it was accepted, or moved by
    less. A box that was renamed, removed or moved further is wrong. Boxes that the review does not speak of have no
    mark. Memory holds the reviewed images and their boxes.

    Raises:
        Refused: nobody reviewed the corrected run, or it is not a correction of `run`.
    """
    shown, run_id = storage.redact(corrected.uri), run.manifest.run_id
    if "review" not in corrected.columns:
        raise Refused(f"marks {shown}: a run whose images nobody reviewed; give marks, or a run that `correct` made")
    if run_id not in [one.manifest.run_id for one in _before(corrected)]:
        raise Refused(
            f"marks {shown} are not corrections of run {run_id}; give a run that `labeler correct` made of it, or the "
            "run before that"
        )
    run.s3_rules().apply()
    snapshot = read_snapshot(corrected)
    reviewed = {key: (unit, review, found) for unit, key, review, found in _reviewed_rows(snapshot)}
    before = read_snapshot(run).only({unit for unit, _, _ in reviewed.values()})
    marks: list[Mark] = []
    for _, table in before.units(_BEFORE):
        rows = zip(table["shard_id"].to_pylist(), table["index"].to_pylist(), strict=True)
        for key, earlier in zip(rows, DetectionsColumn(table).per_row(masks=False), strict=True):
            if key in reviewed:
                _, review, found = reviewed[key]
                marks += _marks(f"{key[0]}/{key[1]}", earlier, verdicts(earlier, found, review == _COMPLETE))
    if not marks:
        raise Refused(f"marks {shown}: no box of run {run_id} was reviewed")
    return Marks(shown, run_id, tuple(marks))


def _before(run: Run) -> Iterator[Run]:
    """The runs that a run derives from, nearest first."""
    while run.parent is not None:
        run = run.parent
        yield run


def _reviewed_rows(snapshot: Snapshot) -> Iterable[tuple[tuple[str, int], tuple[str, int], str, Detections]]:
    """(unit, row, its review, its boxes) of each reviewed image."""
    for unit, table in snapshot.units():
        if "review" not in table.schema.names:  # a unit that nobody touched
            continue
        table = table.filter(table["review"].is_valid())
        rows = table.select(["shard_id", "index", "review"]).to_pylist()
        for row, found in zip(rows, DetectionsColumn(table).per_row(masks=False), strict=True):
            yield unit, (row["shard_id"], row["index"]), row["review"], found


def verdicts(before: Detections, after: Detections, is_complete: bool) -> Verdicts:
    """Say of each box that went out what its review said: (n,) 1 for right, 0 for wrong, NaN for nothing.

    A reviewed box is known by the score that the model gave it; of several with one score, the one that it overlaps
    most. A box that the reviewer removed and drew again within an IoU of 0.5 is right.

    Args:
        before: the boxes of the image in the run that was corrected.
        after: those in the corrected run.
        is_complete: whether the whole image was reviewed, not single boxes of it.
    """
    said = np.zeros(len(before))
    if not len(before) or not len(after):
        return said
    overlaps = iou(before.boxes, after.boxes)
    overlaps[(before.boxes[:, None] == after.boxes[None]).all(2)] = 2  # the very box
    same_name = before.category_ids[:, None] == after.category_ids[None]
    source = after.more.get("source", np.full(len(after), None, np.object_))
    untouched = np.array([each is None for each in source], np.bool_)
    known = ~untouched & ~np.isnan(_model_scores(after))
    same_score = _model_scores(before)[:, None] == _model_scores(after)[None]
    free = np.ones(len(before), np.bool_), np.ones(len(after), np.bool_)
    if not is_complete:  # single boxes: the others are in the row as they were
        for one, _ in _pairs((overlaps == 2) & same_name & same_score & untouched, overlaps, free):
            said[one] = np.nan
    for one, other in _pairs(same_score & known, overlaps, free):
        said[one] = float(same_name[one, other] and overlaps[one, other] >= _RIGHT_IOU)
    drawn_again = same_name & (overlaps >= _RIGHT_IOU) & ~untouched
    for one, _ in _pairs(drawn_again, overlaps, free):
        said[one] = 1.0
    return said


def _model_scores(found: Detections) -> npt.NDArray[np.float32]:
    """The model's scores, also of boxes that were reviewed; NaN for those that a person drew."""
    theirs = found.more.get("model_score")
    return found.scores if theirs is None else np.where(found.reviewed, theirs, found.scores)


def _pairs(
    possible: npt.NDArray[np.bool_],
    overlaps: npt.NDArray[np.float64],
    free: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
) -> Iterator[tuple[int, int]]:
    """One-to-one pairs of a possible pair's boxes that are free, those that overlap most first; they are taken."""
    rows, columns = np.nonzero(possible)
    for place in np.argsort(-overlaps[rows, columns], kind="stable").tolist():
        row, column = int(rows[place]), int(columns[place])
        if free[0][row] and free[1][column]:
            free[0][row] = free[1][column] = False
            yield row, column


def _marks(image: str, found: Detections, said: Verdicts) -> Iterator[Mark]:
    for box in np.flatnonzero(np.isfinite(said)).tolist():
        yield Mark(
            image=image,
            box=box,
            category_id=int(found.category_ids[box]),
            score=float(found.scores[box]),
            right=bool(said[box]),
        )

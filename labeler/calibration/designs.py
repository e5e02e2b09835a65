"""How marked boxes were chosen: by chance, or because they looked wrong. Only the former say something about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from labeler.calibration.marks import Mark, Marks, count_boxes
from labeler.errors import Refused, first_lines
from labeler.exports.sampled import SMALLEST_SIDE, Sample
from labeler.exports.selection import Selection
from labeler.exports.writing import ExportedRun
from labeler.labels.detections import Detections
from labeler.runs import Snapshot
from labeler.truth.ground_truth import MAX_PROBLEMS

_SCORE_TOLERANCE = 1e-4  # browsers round


def joined(files: Sequence[Marks]) -> Marks:
    """Return the marks of several files as those of one; the last mark of a box counts.

    Raises:
        Refused: they are of different runs.
    """
    first = files[0]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Marks(first.source + more, first.run_id, tuple(by_place(first.run_id, files).values()))


def drawn_evenly(marks: Marks) -> Marks:
    """Return the marks of boxes that were drawn by chance within their category and tenth of score.

    Raises:
        Refused: the marks do not say how their boxes were chosen, or none was drawn.
    """
    if all(mark.drawn is None for mark in marks.marks):
        raise Refused(
            f"marks {marks.source} do not say how their boxes were chosen: give the sample that they are of (--sample "
            'FILE), or write `"drawn": true` into each mark of a box that was taken by chance'
        )
    kept = tuple(mark for mark in marks.marks if mark.drawn)
    if not kept:
        raise Refused(
            f"marks {marks.source}: no marked box was drawn by chance, so the share of right ones says nothing about "
            "the run; mark the boxes that the report shows first in each band of score, or those of a sample"
        )
    return replace(marks, marks=kept)


def drawn_by_sample(marks: Marks, sample: Sample) -> Marks:
    """Return the marks of the sample's boxes that were drawn by chance, each with the boxes that it stands for.

    Within a stratum, boxes that nobody marked count as missing at random.

    Raises:
        Refused: the sample was chosen, a stratum has no mark, or the marks are of other boxes.
    """
    require_drawn(sample)
    verdicts, _ = judge(sample, [marks])
    judged = [0] * len(sample.strata)
    found = list[tuple[Mark, int]]()
    for (image, box), verdict in zip(sample.boxes, verdicts.tolist(), strict=True):
        if box.stratum is None or np.isnan(verdict):
            continue
        judged[box.stratum] += 1
        row = f"{image.shard_id}/{image.index}"
        mark = Mark(image=row, box=box.box, category_id=box.category_id, score=box.score, right=bool(verdict))
        found.append((mark, box.stratum))
    if empty := [str(number) for number, count in enumerate(judged) if not count]:
        raise Refused(f"no box of stratum {', '.join(empty)} was judged; mark more boxes of the sample")
    weights = [stratum.boxes / max(1, count) for stratum, count in zip(sample.strata, judged, strict=True)]
    return replace(marks, marks=tuple(mark for mark, _ in found), weights=tuple(weights[at] for _, at in found))


def population_of(snapshot: Snapshot, sample: Sample) -> dict[int, npt.NDArray[np.int64]]:
    """Count the boxes that a sample was drawn from, by category and score (`at_least`). Streams the run.

    Raises:
        Refused: the run has other boxes than when the sample was drawn.
    """
    asked = sample.population
    source = ExportedRun(snapshot)
    chooser = source.chooser(
        Selection(thresholds=asked.to_thresholds(), suppress_iou=asked.suppress, min_side=SMALLEST_SIDE)
    )
    boxes: dict[int, npt.NDArray[np.int64]] = {}
    total = 0
    for _, choice in source.choices(chooser, masks=False):
        kept = Detections.concat(image.detections for _, image in choice.chosen)
        count_boxes(kept, boxes)
        total += len(kept)
    if total != asked.boxes:
        raise Refused(
            f"the run has {total:,} boxes where the sample was drawn from {asked.boxes:,}; draw a new sample of it"
        )
    return boxes


def require_drawn(sample: Sample) -> None:
    """Raise Refused unless boxes of each stratum were drawn with a known probability."""
    if not sample.strata:
        raise Refused(
            f"this sample was chosen by {sample.strategy}, so the share of its right boxes says nothing about the run; "
            "use one that was drawn by --strategy estimate, random or mixed"
        )
    if undrawn := [number for number, stratum in enumerate(sample.strata) if not stratum.drawn]:
        raise Refused(
            f"this sample has no box of stratum {', '.join(map(str, undrawn))}, so it says nothing about the run; draw "
            "a new one"
        )


def judge(sample: Sample, marks: Sequence[Marks]) -> tuple[npt.NDArray[np.float64], int]:
    """Match marks to the boxes of a sample; the last mark of a box counts.

    Returns:
        (n,) 1 for right, 0 for wrong, NaN for not marked, of each box in `sample.boxes`; and how many marks are of
        other boxes.

    Raises:
        Refused: marks of another run, or of other boxes at the places of the sample's.
    """
    found = by_place(sample.run, marks)
    verdicts, problems = [], list[str]()
    used = set[tuple[str, int]]()
    for image, box in sample.boxes:
        names = (f"{image.shard_id}/{image.index}", image.digest or "")
        mine = [found[name, box.box] for name in names if (name, box.box) in found]
        used.update((name, box.box) for name in names)
        verdicts.append(float(mine[-1].right) if mine else np.nan)
        problems += [
            f"image {mark.image}: box {box.box} was drawn with category {box.category_id} and score {box.score:.4f}, "
            f"the mark says {mark.category_id} and {mark.score:.4f}"
            for mark in mine
            if mark.category_id != box.category_id or abs(mark.score - box.score) > _SCORE_TOLERANCE
        ]
    if problems:
        some = first_lines(problems, MAX_PROBLEMS)
        raise Refused(f"{len(problems):,} marks are not about the boxes of the sample", some)
    return np.array(verdicts, np.float64), sum(place not in used for place in found)


def by_place(run_id: str, marks: Sequence[Marks]) -> dict[tuple[str, int], Mark]:
    """Return the marks by image and position of the box; of several files the last counts."""
    for one in marks:
        if one.run_id != run_id:
            raise Refused(f"marks {one.source} are of run {one.run_id}, the sample is of run {run_id}")
    return {(mark.image, mark.box): mark for one in marks for mark in one.marks}

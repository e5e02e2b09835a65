"""What marks of a sample's boxes say of the run: its precision, and where to draw from next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import plain_json
from labeler.calibration.marks import Mark, Marks
from labeler.digests import readable_json
from labeler.errors import Refused, first_lines
from labeler.exports.sampled import Sample
from labeler.review.sampling.draw import Pilot
from labeler.review.sampling.estimator import ShareEstimate, estimate_part, estimate_precision
from labeler.truth.ground_truth import MAX_PROBLEMS
from labeler.vocabulary import Vocabulary

ENOUGH = 30  # judged boxes of a category, below which it has no estimate of its own
_SCORE_TOLERANCE = 1e-4  # browsers round
_KIND = "labeler_precision"


@dataclass(frozen=True)
class SampleEstimate:
    """The precision of the population that a sample was drawn from.

    Attributes:
        categories: by id, of those with enough judged boxes.
        too_few: categories with a judged box and fewer than ENOUGH.
        drawn: boxes of the sample with an inclusion probability.
        chosen: boxes of a mixed sample without one; they do not count.
        elsewhere: marks of boxes that are not in the sample.
    """

    sample: Sample
    precision: ShareEstimate
    categories: dict[int, ShareEstimate]
    too_few: int
    drawn: int
    chosen: int
    elsewhere: int

    def to_json(self) -> bytes:
        """Return the numbers as a file."""
        values = {
            _KIND: 1,
            "run": self.sample.run,
            "strategy": self.sample.strategy,
            "boxes": self.sample.population.boxes,
            "drawn": self.drawn,
            "precision": _plain(self.precision),
            "categories": {str(id_): _plain(one) for id_, one in self.categories.items()},
        }
        return readable_json(values)

    def lines(self, vocabulary: Vocabulary) -> list[str]:
        """Return the numbers for people."""
        total, judged = self.precision, self.precision.judged
        named = sorted(((vocabulary.by_id[id_].name, one) for id_, one in self.categories.items()))
        width = max([len("precision"), *(len(name) for name, _ in named)])
        worth = "every box was judged" if np.isinf(total.worth) else f"worth {total.worth:,.0f} drawn at random"
        design = f"{len(self.sample.strata)} strata of score" if len(self.sample.strata) > 1 else "drawn at random"
        lines = [
            f"{'precision':{width}}  {_shown(total)}  of {self.sample.population.boxes:,} boxes, interval 95%",
            f"{'judged':{width}}  {judged:,} of {self.drawn:,} boxes drawn, {design}; {worth}",
            *(f"{name:{width}}  {_shown(one)}  {one.judged:,} judged" for name, one in named),
        ]
        if self.too_few:
            lines.append(f"{self.too_few:,} categories have fewer than {ENOUGH} judged boxes, too few to say")
        if self.chosen:
            lines.append(f"{self.chosen:,} boxes of the sample were chosen by their kind or score, and do not count")
        if self.elsewhere:
            lines.append(f"{self.elsewhere:,} marks are of boxes that are not in the sample, and do not count")
        return lines


def describe_estimate(data: bytes) -> str | None:
    """Return what a file of `to_json` is about; None for any other file."""
    try:
        found = plain_json.parse(data)
    except ValueError:
        return None
    return f"the precision of run {found.get('run')}" if isinstance(found, dict) and _KIND in found else None


def estimate_sample(sample: Sample, marks: Sequence[Marks]) -> SampleEstimate:
    """Estimate the precision of the population from marks, by the boxes that were drawn with a known probability.

    Raises:
        Refused: no box of the sample was drawn so, too little of it is marked, or the marks are of other boxes.
    """
    return estimate_verdicts(sample, *judge(sample, marks))


def estimate_verdicts(sample: Sample, verdicts: npt.NDArray[np.float64], elsewhere: int = 0) -> SampleEstimate:
    """Estimate the precision of the population from verdicts, wherever they come from.

    Args:
        verdicts: (n,) 1 for right, 0 for wrong, NaN for not judged, of each box in `sample.boxes`.
        elsewhere: verdicts about other boxes, for the report.

    Raises:
        Refused: no box of the sample was drawn with a known probability, or too few were judged.
    """
    if not sample.strata:
        raise Refused(
            f"this sample was chosen by {sample.strategy}, so the share of its right boxes says nothing about the run; "
            "estimate from one that was drawn by --strategy estimate, random or mixed"
        )
    if undrawn := [number for number, stratum in enumerate(sample.strata) if not stratum.drawn]:
        raise Refused(
            f"this sample has no box of stratum {', '.join(map(str, undrawn))}, so it says nothing about the run; draw "
            "a new one"
        )
    boxes = [box for _, box in sample.boxes]
    by_chance = np.array([box.inclusion is not None for box in boxes], np.bool_)
    drawn = [box for box in boxes if box.inclusion is not None]
    right, categories = verdicts[by_chance], np.array([box.category_id for box in drawn])
    stratum = np.array([box.stratum for box in drawn], np.int64)
    inclusion = np.array([box.inclusion for box in drawn], np.float64)
    try:
        precision = estimate_precision(stratum, inclusion, right)
    except ValueError as error:
        raise Refused(f"{error}; mark more boxes of the sample") from None
    parts = {id_: estimate_part(stratum, inclusion, right, categories == id_) for id_ in np.unique(categories).tolist()}
    known = {id_: part for id_, part in parts.items() if part is not None}
    return SampleEstimate(
        sample,
        precision,
        {id_: part for id_, part in known.items() if part.judged >= ENOUGH},
        sum(part.judged < ENOUGH for part in known.values()),
        len(drawn),
        len(boxes) - len(drawn),
        elsewhere,
    )


def judge(sample: Sample, marks: Sequence[Marks]) -> tuple[npt.NDArray[np.float64], int]:
    """Match marks to the boxes of a sample; the last mark of a box counts.

    Returns:
        (n,) 1 for right, 0 for wrong, NaN for not marked, of each box in `sample.boxes`; and how many marks are of
        other boxes.

    Raises:
        Refused: marks of another run, or of other boxes at the places of the sample's.
    """
    found = _by_place(sample.run, marks)
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


def pilot_of(run_id: str, marks: Sequence[Marks], before: Sample | None = None) -> Pilot:
    """Return the marks as a pilot: those of a sample to continue, or any of the run's.

    Raises:
        Refused: marks of another run or of other boxes; or a sample that cannot be continued.
    """
    if before is None:
        found = list(_by_place(run_id, marks).values())
        return Pilot(np.array([mark.score for mark in found]), np.array([float(mark.right) for mark in found]))
    if before.strategy != "estimate":
        raise Refused(f"--continue takes a sample by --strategy estimate, this one is by {before.strategy}")
    verdicts, _ = judge(before, marks)
    known = np.isfinite(verdicts)
    if not known.any():
        raise Refused("no box of the sample to continue is marked; give its marks with --pilot")
    scores = np.array([box.score for _, box in before.boxes])
    return Pilot(scores[known], verdicts[known], before)


def _by_place(run_id: str, marks: Sequence[Marks]) -> dict[tuple[str, int], Mark]:
    for one in marks:
        if one.run_id != run_id:
            raise Refused(f"marks {one.source} are of run {one.run_id}, the sample is of run {run_id}")
    return {(mark.image, mark.box): mark for one in marks for mark in one.marks}


def _plain(one: ShareEstimate) -> dict[str, Any]:
    worth = None if np.isinf(one.worth) else round(one.worth, 2)
    return {"value": one.value, "low": one.low, "high": one.high, "judged": one.judged, "worth": worth}


def _shown(one: ShareEstimate) -> str:
    return f"{one.value:.3f} ({one.low:.3f}-{one.high:.3f})"

"""What marks of a sample's boxes say of the run: its precision, and where to draw from next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import plain_json
from labeler.calibration.designs import by_place, judge, require_drawn
from labeler.calibration.marks import Marks
from labeler.digests import readable_json
from labeler.errors import Refused
from labeler.exports.sampled import Sample
from labeler.review.sampling.draw import Pilot
from labeler.review.sampling.estimator import ShareEstimate, estimate_part, estimate_precision
from labeler.vocabulary import Vocabulary

ENOUGH = 30  # judged boxes of a category, below which it has no estimate of its own
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
    """Estimate the precision of the population from judgments, wherever they come from.

    Args:
        verdicts: (n,) 1 for right, 0 for wrong, NaN for not judged, of each box in `sample.boxes`.
        elsewhere: judgments about other boxes, for the report.

    Raises:
        Refused: no box of the sample was drawn with a known probability, or too few were judged.
    """
    require_drawn(sample)
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


def pilot_of(run_id: str, marks: Sequence[Marks], before: Sample | None = None) -> Pilot:
    """Return the marks as a pilot: those of a sample to continue, or any of the run's.

    Raises:
        Refused: marks of another run or of other boxes; or a sample that cannot be continued.
    """
    if before is None:
        found = list(by_place(run_id, marks).values())
        return Pilot(np.array([mark.score for mark in found]), np.array([float(mark.right) for mark in found]))
    if before.strategy != "estimate":
        raise Refused(f"--continue takes a sample by --strategy estimate, this one is by {before.strategy}")
    verdicts, _ = judge(before, marks)
    known = np.isfinite(verdicts)
    if not known.any():
        raise Refused("no box of the sample to continue is marked; give its marks with --pilot")
    scores = np.array([box.score for _, box in before.boxes])
    return Pilot(scores[known], verdicts[known], before)


def _plain(one: ShareEstimate) -> dict[str, Any]:
    worth = None if np.isinf(one.worth) else round(one.worth, 2)
    return {"value": one.value, "low": one.low, "high": one.high, "judged": one.judged, "worth": worth}


def _shown(one: ShareEstimate) -> str:
    return f"{one.value:.3f} ({one.low:.3f}-{one.high:.3f})"

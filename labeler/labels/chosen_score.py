"""Which score of a box counts: the detector's, a second model's, or one fitted to both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn, with_field

SCORE, SCORE2, FUSED = SCORES = ("score", "score2", "fused")
_EDGE = 1e-4  # scores nearer to 0 or 1 count as this far from it: the logit of 0 is not a number
Floats = npt.NDArray[np.float32]


def logit(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) of scores in [0, 1], moved off the ends by 0.0001."""
    clipped = np.clip(np.asarray(scores, np.float64), _EDGE, 1 - _EDGE)
    found: npt.NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return found


@dataclass(frozen=True)
class ScoreFusion:
    """fused = sigmoid(intercept + score * logit(score) + score2 * logit(score2))."""

    intercept: float
    score: float
    score2: float

    def apply(self, score: npt.NDArray[Any], score2: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return (n,) in [0, 1]."""
        log_odds = self.intercept + self.score * logit(score) + self.score2 * logit(score2)
        fused: npt.NDArray[np.float64] = 1 / (1 + np.exp(-log_odds))
        return fused

    def to_dict(self) -> dict[str, float]:
        """As a threshold file has it."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Any) -> ScoreFusion:
        """Return the inverse of `to_dict`. Raises ValueError if it is something else."""
        names = ("intercept", "score", "score2")
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise ValueError(f"a fusion has {', '.join(names)}")
        numbers = [values[name] for name in names]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and np.isfinite(n) for n in numbers):
            raise ValueError(f"a fusion has three numbers, got {numbers}")
        return ScoreFusion(*map(float, numbers))


@dataclass(frozen=True)
class ChosenScore:
    """The score that readers of a run use.

    A box without a second score has `missing` as its chosen score. A box that a person has checked keeps its own, 1
    (below 0, `missing` marks it, too: such boxes say nothing of a model's score).

    Attributes:
        name: of SCORES.
        fusion: of FUSED.
    """

    name: str = SCORE
    fusion: ScoreFusion | None = None
    missing: float = 0.0

    @property
    def is_detectors(self) -> bool:
        """Return whether it is the score that rows are stored with."""
        return self.name == SCORE

    def of(self, found: Detections) -> Floats:
        """Return (n,) the chosen score of each detection."""
        if self.is_detectors:
            return found.scores
        second = found.more.get("score2")
        if second is None:
            second = np.full(len(found), np.nan, np.float32)
        chosen: Floats = second.copy()
        if self.fusion is not None:
            chosen[:] = self.fusion.apply(found.scores, second)
        chosen[np.isnan(second)] = self.missing
        if "source" in found.more:
            checked = np.array([source is not None for source in found.more["source"]], np.bool_)
            chosen[checked] = found.scores[checked] if self.missing >= 0 else self.missing
        return chosen

    def apply(self, found: Detections) -> Detections:
        """Return the same detections in the same order, with the chosen score as `scores`."""
        return found if self.is_detectors else replace(found, scores=self.of(found))

    def swap(self, table: pa.Table) -> pa.Table:
        """Return rows whose detections have the chosen score as `score`; as they are where they have no detections."""
        if self.is_detectors or "detections" not in table.schema.names:
            return table
        return with_field(table, SCORE, self.of(DetectionsColumn(table).detections))

    def beside(self, table: pa.Table) -> pa.Table:
        """Return rows whose detections have the fused score as `fused`, for conditions; as they are
        for other choices.
        """
        if self.name != FUSED:
            return table
        return with_field(table, FUSED, self.of(DetectionsColumn(table).detections))


DETECTORS = ChosenScore()

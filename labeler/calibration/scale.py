"""One scale for the scores of different detectors: how often a box with that score is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import plain_yaml, storage
from labeler.errors import Refused
from labeler.evaluation.average_precision import SCORE_THRESHOLDS
from labeler.runs import Run
from labeler.runs.fitted_on import require_fitted_on

Floats = npt.NDArray[np.float64]
KEY = "scale"  # in the section `calibration` of a threshold file
_PRIOR = 0.1  # boxes per hundredth of the score that are right as often as their score says: all scores stay distinct
_DIGITS = 6


@dataclass(frozen=True)
class ScoreScale:
    """A rising map from a detector's score to the share of its boxes with that score that are right.

    Attributes:
        scores, precisions: (k,) strictly rising, both from 0 to 1; linear in between.
    """

    scores: Floats
    precisions: Floats

    def apply(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(n,) precisions of (n,) scores."""
        return np.interp(scores, self.scores, self.precisions).astype(np.float32)

    def to_dict(self) -> dict[float, float]:
        """As threshold files have it: score -> precision."""
        return dict(zip(self.scores.round(_DIGITS).tolist(), self.precisions.round(_DIGITS).tolist(), strict=True))

    @staticmethod
    def from_dict(values: Any) -> ScoreScale:
        """The inverse. Raises ValueError if it is not a rising map from 0..1 to 0..1."""
        if not isinstance(values, Mapping) or not all(_is_number(v) for pair in values.items() for v in pair):
            raise ValueError("it must map scores to precisions")
        scores, precisions = np.array(list(values), np.float64), np.array(list(values.values()), np.float64)
        for side in (scores, precisions):
            if len(side) < 2 or (side[0], side[-1]) != (0, 1) or not (np.diff(side) > 0).all():
                raise ValueError("scores and precisions must rise from 0 to 1")
        return ScoreScale(scores, precisions)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def fit_scale(right: Floats, judged: Floats) -> ScoreScale:
    """The rising map that fits best: isotonic regression by pooling adjacent violators (Ayer et al., 1955).

    Args:
        right, judged: (len(SCORE_THRESHOLDS),) boxes with a score in each hundredth, from 0.01 up; may be fractions.
    """
    middle = SCORE_THRESHOLDS + 0.005
    weights = judged + _PRIOR
    pools: list[tuple[float, float, float]] = []  # weight, sum of scores, sum of right ones
    for weight, score, hits in zip(weights, weights * middle, right + _PRIOR * middle, strict=True):
        pool = (float(weight), float(score), float(hits))
        while pools and pools[-1][2] / pools[-1][0] >= pool[2] / pool[0]:
            before = pools.pop()
            pool = (before[0] + pool[0], before[1] + pool[1], before[2] + pool[2])
        pools.append(pool)
    weight, score, hits = np.array(pools).T
    scores = np.concatenate([[0.0], score / weight, [1.0]])
    return _distinct(scores, np.concatenate([[0.0], hits / weight, [1.0]]))


def _distinct(scores: Floats, precisions: Floats) -> ScoreScale:
    """Without points that a file would write like the one before."""
    points = np.stack([scores, precisions]).round(_DIGITS)
    keep = np.append(True, (np.diff(points) > 0).all(0))
    keep &= np.append((points[:, :-1] < 1).all(0), True)
    return ScoreScale(points[0, keep], points[1, keep])


def read_scale(uri: str, run: Run) -> ScoreScale:
    """The scale in a file of `labeler calibrate`, for this run.

    Raises:
        Refused: there is none, or it was fitted on another model, vocabulary or prompts.
    """
    shown = storage.redact(uri)
    try:
        values: Any = plain_yaml.parse(storage.read_bytes(uri).decode("utf-8"))[0]
        section = values["calibration"][KEY]
        fitted_on = values["fitted_on"]
        scale = ScoreScale.from_dict(section)
    except (storage.StorageError, UnicodeDecodeError, plain_yaml.NotPlainYaml) as error:
        raise Refused(f"calibration {shown} cannot be read: {error}") from None
    except (KeyError, TypeError):
        raise Refused(
            f"calibration {shown} does not say how often boxes with each score are right (calibration.{KEY}); write it "
            "again with `labeler calibrate`, or fuse with --raw-scores"
        ) from None
    except ValueError as error:
        raise Refused(f"calibration {shown}: calibration.{KEY}: {error}") from None
    require_fitted_on(fitted_on, run, source=shown)
    return scale

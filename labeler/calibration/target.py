"""What is asked of the thresholds: a precision, or a recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from labeler.errors import Refused, did_you_mean

Measure = Literal["precision", "recall"]


@dataclass(frozen=True)
class Target:
    """Reach at least `value` of `measure`, and be `confidence` sure of it (one-sided)."""

    measure: Measure
    value: float
    confidence: float = 0.9
    min_judged: int = 30  # fewer judged detections (objects, for recall) make a category rare


def parse_target(text: str, *, confidence: float = 0.9, min_judged: int = 30) -> Target:
    """`precision=0.9` or `recall=0.5`. Raises Refused."""
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if name not in get_args(Measure) or not 0 < value < 1:
        near = "" if name in get_args(Measure) else did_you_mean(name, get_args(Measure))
        raise Refused(f"--target is precision=0.9 or recall=0.5, with a number between 0 and 1; got {text!r}{near}")
    if not 0.5 <= confidence < 1:
        raise Refused(f"--confidence is a number from 0.5 to below 1, got {confidence}")
    if min_judged < 1:
        raise Refused(f"--min-judged must be 1 or more, got {min_judged}")
    return Target("precision" if name == "precision" else "recall", value, confidence, min_judged)

"""Score thresholds: one for all categories, or one each; the file that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import plain_yaml, storage
from labeler.errors import Refused, did_you_mean
from labeler.labels.detections import Detections
from labeler.vocabulary import Vocabulary

KEYS = ("default", "categories", "fitted_on", "calibration")  # in the order of a file; the last is for people
NEVER = math.inf  # of a category that is excluded: a score of exactly 1 is still below it
_NEVER_TEXT = "never"
NOTHING_KEPT = "the thresholds keep no box: every category is at `never` or 1"


@dataclass(frozen=True)
class Thresholds:
    """Keep a detection if its score is at least its category's threshold, or a person has reviewed it.

    Attributes:
        fitted_on: the fingerprint fields of the run they were fitted on; empty for a file written by hand.
    """

    default: float = 0.0
    by_category: Mapping[int, float] = field(default_factory=dict)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keep_any(self) -> bool:
        """Return whether any category can keep a box, other than one with a score of exactly 1."""
        return min([self.default, *self.by_category.values()]) < 1

    def limits(self, category_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Return (n,) the threshold of each detection; float32, as scores are, so that a stored 0.3 is at least 0.3."""
        known, place = np.unique(category_ids, return_inverse=True)
        wanted = [self.by_category.get(int(id_), self.default) for id_ in known]
        return np.asarray(wanted, np.float32)[place]

    def keeps(self, detections: Detections) -> npt.NDArray[np.bool_]:
        """Return (n,) which are kept; all that a person has reviewed, also of a category that is excluded."""
        above: npt.NDArray[np.bool_] = detections.scores >= self.limits(detections.category_ids)
        return above | detections.reviewed

    def apply(self, detections: Detections) -> Detections:
        return detections[self.keeps(detections)]


def as_written(threshold: float) -> float | str:
    """Return a threshold as files have it: a number, or `never`."""
    return _NEVER_TEXT if threshold == NEVER else threshold


def read_thresholds(path: str | Path, vocabulary: Vocabulary, *, default: float = 0.0) -> Thresholds:
    """Return thresholds from a YAML file: `default: 0.3` and `categories: {name or id: value}`.

    A value is a score or `never`, which leaves the category out. Files that `labeler calibrate` wrote before it knew
    that word say 1 instead, and mean the same. `fitted_on` may say what they were chosen on, as in the files of
    `labeler calibrate` and `labeler report`.

    Raises:
        Refused: unreadable, made for another vocabulary, a value that is not `never` or from 0 to 1, or a category
            the vocabulary does not have; all problems at once.
    """
    shown = storage.redact(str(path))
    try:
        values: Any = plain_yaml.parse(storage.read_bytes(str(path)).decode("utf-8"))[0]
    except (storage.StorageError, UnicodeDecodeError, plain_yaml.NotPlainYaml) as error:
        raise Refused(f"thresholds {shown} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise Refused(f"thresholds {shown} must be a mapping with `default` and `categories`")
    if unknown := [storage.printable(str(key)) for key in values if key not in KEYS]:
        has = f"a threshold file has {', '.join(KEYS[:-1])} and {KEYS[-1]}"
        raise Refused(f"thresholds {shown}: unknown key {unknown[0]}{did_you_mean(unknown[0], KEYS)}; {has}")
    by_category, fitted_on = values.get("categories") or {}, values.get("fitted_on") or {}
    if not isinstance(by_category, dict) or not isinstance(fitted_on, dict):
        raise Refused(f"thresholds {shown}: `categories` and `fitted_on` must be mappings")
    problems: list[str] = []
    require_same_vocabulary(fitted_on, vocabulary, shown)  # else each unknown name would be a problem of its own
    by_name = {category.name: category.id for category in vocabulary.categories}
    score = _fitted_score if values.get("calibration") else _score
    chosen = {}
    for key, value in by_category.items():
        id_ = key if key in vocabulary.by_id else by_name.get(str(key))
        if id_ is None:
            problems.append(f"{key}: no such category in the run{did_you_mean(str(key), by_name)}")
        else:
            chosen[id_] = score(value, str(key), problems)
    base = score(values.get("default", default), "default", problems)
    if problems:
        raise Refused(f"thresholds {shown}: {len(problems)} problems", problems)
    return Thresholds(base, chosen, fitted_on)


def require_same_vocabulary(fitted_on: Mapping[str, Any], vocabulary: Vocabulary, shown: str) -> None:
    """Raise Refused when the file says that it was fitted on another vocabulary."""
    theirs = fitted_on.get("vocabulary", vocabulary.fingerprint)
    if theirs != vocabulary.fingerprint:
        raise Refused(
            f"thresholds {shown} were fitted on vocabulary {theirs}, the run has {vocabulary.fingerprint}; "
            "refit with `labeler calibrate` on this run"
        )


def _fitted_score(value: Any, name: str, problems: list[str]) -> float:
    """Return a threshold that `labeler calibrate` wrote: it fits none above 0.99."""
    return NEVER if value == 1 and not isinstance(value, bool) else _score(value, name, problems)


def _score(value: Any, name: str, problems: list[str]) -> float:
    if value == _NEVER_TEXT:
        return NEVER
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        problems.append(f"{name}: a threshold is a number from 0 to 1, or `never`, got {value!r}")
        return 0.0
    return float(value)

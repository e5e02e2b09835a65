"""Score thresholds at export: one for all categories, or one each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from labeler.detections import Detections
from labeler.errors import Refused
from labeler.vocabulary import Vocabulary


@dataclass(frozen=True)
class Thresholds:
    """Keep a detection when its score is at least its category's threshold."""

    default: float = 0.0
    by_category: Mapping[int, float] = field(default_factory=dict)

    def apply(self, detections: Detections) -> Detections:
        if not self.by_category:
            return detections.above(self.default)
        wanted = [self.by_category.get(int(id_), self.default) for id_ in detections.category_ids]
        return detections[detections.scores >= np.asarray(wanted, np.float32)]


def read_thresholds(path: str | Path, vocabulary: Vocabulary, *, default: float = 0.0) -> Thresholds:
    """Thresholds from a YAML file: `default: 0.3` and `categories: {name or id: value}`.

    `made_on` may say what they were chosen on, as in the files that `labeler report` makes.

    Raises:
        Refused: unreadable, made for another vocabulary, a value outside 0..1, or a category the vocabulary does not
            have; all problems at once.
    """
    try:
        values: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(f"thresholds {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not set(values) <= {"default", "categories", "made_on"}:
        raise Refused(f"thresholds {path} must be a mapping with `default` and `categories`")
    problems = _made_elsewhere(values.get("made_on"), vocabulary)
    by_name = {category.name: category.id for category in vocabulary.categories}
    chosen = {}
    for key, value in (values.get("categories") or {}).items():
        id_ = key if key in vocabulary.by_id else by_name.get(str(key))
        if id_ is None:
            near = difflib.get_close_matches(str(key), by_name, n=1)
            problems.append(f"{key}: no such category in the run" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            chosen[id_] = _score(value, str(key), problems)
    base = _score(values.get("default", default), "default", problems)
    if problems:
        raise Refused(f"thresholds {path}: {len(problems)} problems", problems)
    return Thresholds(base, chosen)


def _made_elsewhere(made_on: Any, vocabulary: Vocabulary) -> list[str]:
    """Thresholds that the report made say on what: for other categories they mean nothing."""
    theirs = made_on.get("vocabulary") if isinstance(made_on, dict) else None
    if theirs in (None, vocabulary.fingerprint):
        return []
    return [f"made_on: for another vocabulary ({theirs}), the run has {vocabulary.fingerprint}"]


def _score(value: Any, name: str, problems: list[str]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        problems.append(f"{name}: a threshold is a number from 0 to 1, got {value!r}")
        return 0.0
    return float(value)

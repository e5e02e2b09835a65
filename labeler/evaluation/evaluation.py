"""What an evaluation found: scores, and the protocol they were reached under."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labeler import plain_json
from labeler.evaluation import operating_points
from labeler.evaluation.average_precision import LVIS_FIXED, Score
from labeler.evaluation.groups import Groups
from labeler.truth.ground_truth import GroundTruth
from labeler.truth.matching import Kind

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """What was reached, and how.

    Attributes:
        protocol: plain data: run, model, decoding, annotations, images and categories counted and left out, versions.
        truth: the part of the ground truth that was evaluated; positions in scores and groups are its.
        scores: one for each rules and kind: boxes first, then masks.
        refused: name of rules -> why the run cannot be judged by them.
        groups: positions of the categories of each named group.
        kept: scores of what survives suppression across categories at the thresholds; their counts alone matter.
    """

    protocol: dict[str, Any]
    truth: GroundTruth
    scores: tuple[Score, ...]
    refused: dict[str, str] = field(default_factory=dict)
    groups: Groups = field(default_factory=dict)
    kept: tuple[Score, ...] = ()

    @property
    def floor(self) -> float:
        """Scores below this were never stored."""
        return float((self.protocol["decoding"] or {}).get("score_floor", 0.0))

    def score(self, rules: str = "COCO", kind: Kind = "bbox") -> Score | None:
        """The score by these rules, if there is one."""
        return next((s for s in self.scores if s.rules.name == rules and s.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for evaluation.json; None where nothing counts."""
        return {
            "schema_version": SCHEMA_VERSION,
            "protocol": self.protocol,
            "refused": self.refused,
            "scores": [self._score_to_dict(one) for one in self.scores],
            "operating_points": [
                operating_points.to_dict(one, self.truth, floor=self.floor)
                for one in self.kept or self.scores
                if one.rules is not LVIS_FIXED
            ],
        }

    def to_json(self) -> bytes:
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"

    def _score_to_dict(self, one: Score) -> dict[str, Any]:
        return {
            "rules": one.rules.name,
            "kind": one.kind,
            **one.summary(),
            "groups": {
                name: {
                    **one.summary(members),
                    "categories": len(members),
                    "categories_with_objects": int(np.count_nonzero(one.objects[members])),
                    "objects": int(one.objects[members].sum()),
                }
                for name, members in self.groups.items()
            },
            "categories": [
                {
                    "id": category.id,
                    "name": category.name,
                    "objects": int(one.objects[position]),
                    "detections": int(one.detections[position]),
                    **{name: value for name, value in one.summary([position]).items() if name.startswith("AP")},
                }
                for position, category in enumerate(self.truth.categories)
            ],
        }

    def lines(self) -> list[str]:
        """What the command prints."""
        from labeler.evaluation.text import describe

        return describe(self)


def describe_written(data: bytes) -> str | None:
    """Return what an evaluation.json is about; None if it is not one."""
    try:
        values = plain_json.parse(data)
        protocol, first = values["protocol"], values["scores"][0]
        ap = "-" if first["AP"] is None else f"{first['AP']:.3f}"
        at = f" at thresholds {protocol['thresholds']}" if protocol.get("thresholds") else ""
        return f"the evaluation against {protocol['annotations']['source']}{at} (AP {ap})"
    except (ValueError, LookupError, TypeError):
        return None

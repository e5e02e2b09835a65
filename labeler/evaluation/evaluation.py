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
from labeler.truth.alignment import CategoryMatch, ImageMatch
from labeler.truth.ground_truth import GroundTruth
from labeler.truth.matching import Kind

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Aligned:
    """A run and its ground truth: what each has of the other, and the part that is evaluated.

    Attributes:
        whole: the ground truth as it was read; `images` and `categories` point into it.
        truth: the part of it that the run can be judged by.
        rows: unit -> position in `truth` of each row's image, -1 where it has none.
        category_of: category id of the run -> position in `truth`.
        new_category: (categories of the whole,) int64 positions in `truth`, -1 where excluded.
    """

    whole: GroundTruth
    images: ImageMatch
    categories: CategoryMatch
    truth: GroundTruth
    rows: dict[tuple[str, int], Any]
    category_of: dict[int, int]
    new_category: Any

    @staticmethod
    def of(whole: GroundTruth, images: ImageMatch, categories: CategoryMatch) -> Aligned:
        kept = np.zeros(len(whole.categories), np.bool_)
        kept[list(categories.position_of.values())] = True
        new_image = np.append(np.cumsum(images.present, dtype=np.int32) - 1, np.int32(-1))  # the last: -1 stays -1
        new_category = np.where(kept, np.cumsum(kept) - 1, -1)
        return Aligned(
            whole,
            images,
            categories,
            whole.only(images.present, kept),
            {unit: new_image[positions] for unit, positions in images.rows.items()},
            {id_: int(new_category[position]) for id_, position in categories.position_of.items()},
            new_category,
        )

    def moved(self, groups: Groups) -> Groups:
        return {
            name: [int(self.new_category[member]) for member in members if self.new_category[member] >= 0]
            for name, members in groups.items()
        }


@dataclass(frozen=True)
class Evaluation:
    """Figures of an evaluation, and its protocol.

    Attributes:
        protocol: plain data: run, model, decoding, annotations, images and categories counted and excluded, versions.
        truth: the part of the ground truth that was evaluated; positions in scores and groups are its.
        scores: one for each rules and kind: boxes first, then masks.
        refused: name of rules -> why the run cannot be judged by them.
        groups: positions of the categories of each named group.
        kept: scores of what survives suppression across categories at the thresholds; their counts alone matter.
        aligned: the run that was judged beside all of its ground truth; None for a results file.
    """

    protocol: dict[str, Any]
    truth: GroundTruth
    scores: tuple[Score, ...]
    refused: dict[str, str] = field(default_factory=dict)
    groups: Groups = field(default_factory=dict)
    kept: tuple[Score, ...] = ()
    aligned: Aligned | None = None

    @property
    def floor(self) -> float:
        """Scores below this were never stored; 0 of other scores than the detector's, which have no floor."""
        if "score" in self.protocol:
            return 0.0
        return float((self.protocol["decoding"] or {}).get("score_floor", 0.0))

    def score(self, rules: str = "COCO", kind: Kind = "bbox") -> Score | None:
        """Return the score by these rules, if there is one."""
        return next((s for s in self.scores if s.rules.name == rules and s.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for evaluation.json; None where nothing counts."""
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
        """Return what the command prints."""
        from labeler.evaluation.lines import describe

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

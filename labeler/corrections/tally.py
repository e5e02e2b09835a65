"""What a review came to: images and boxes counted, for people and for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labeler import plain_json
from labeler.corrections.matching import ACCEPTED, ADDED, BOTH, MOVED, RENAMED, SOURCES, Decision
from labeler.corrections.reviewed import BOXES, COMPLETE, NEW
from labeler.labels.boxes import iou
from labeler.labels.detections import Detections
from labeler.vocabulary import Vocabulary

REMOVED = "removed"
COUNTED = (*SOURCES, REMOVED)
_PAIRS = 5  # renames that are listed


@dataclass
class Tally:
    """Counts of one file of corrections.

    Attributes:
        images: by COMPLETE, BOXES, "unreviewed", "skipped", "forgotten" and "elsewhere".
        boxes: category id -> what a person did with its boxes -> how many. A renamed box counts for its old category.
        pairs: (old, new category id) of renamed boxes.
        unshown: boxes of complete images that went because nobody was shown them.
        enveloped: shapes of which the upright envelope was taken.
        overlaps: IoU of each moved box with what it was.
    """

    images: Counter[str] = field(default_factory=Counter)
    boxes: dict[int, Counter[str]] = field(default_factory=dict)
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    unshown: int = 0
    enveloped: int = 0
    overlaps: list[float] = field(default_factory=list)

    def add(self, decision: Decision, earlier: Detections) -> None:
        """Count one image."""
        self.images[decision.state] += 1
        self.unshown += decision.unshown
        for row, place in enumerate(decision.places.tolist()):
            new = int(decision.category_ids[row])
            old = new if place == NEW else int(earlier.category_ids[place])
            moved, renamed = bool(decision.moved[row]), bool(decision.renamed[row])
            done = ADDED if place == NEW else _DONE[moved, renamed]
            self.boxes.setdefault(old, Counter())[done] += 1
            self.pairs.update([(old, new)] if renamed else [])
            if moved:
                self.overlaps.append(float(iou(decision.boxes[row][None], earlier.boxes[place][None])[0, 0]))
        for place in decision.removed.tolist():
            self.boxes.setdefault(int(earlier.category_ids[place]), Counter())[REMOVED] += 1

    def total(self, done: str) -> int:
        return sum(counts[done] for counts in self.boxes.values())

    def to_dict(self) -> dict[str, Any]:
        """For corrections.json."""
        return {
            "images": dict(sorted(self.images.items())),
            "boxes": {str(id_): {name: counts[name] for name in COUNTED} for id_, counts in sorted(self.boxes.items())},
            "renamed": [[old, new, count] for (old, new), count in self.pairs.most_common()],
            "unshown": self.unshown,
            "enveloped": self.enveloped,
        }

    def lines(self, vocabulary: Vocabulary) -> list[str]:
        """Return what the command prints."""
        images, names = self.images, {category.id: category.name for category in vocabulary.categories}
        lines = [
            f"images      {images[COMPLETE]:,} reviewed, {images[BOXES]:,} with single boxes reviewed, "
            f"{images['unreviewed']:,} not reviewed, {images['skipped']:,} skipped"
        ]
        if images["forgotten"]:
            lines.append(f"forgotten   {images['forgotten']:,} of its images were removed from the run since")
        if images["elsewhere"]:
            lines.append(f"elsewhere   {images['elsewhere']:,} reviewed images are not in this run")
        median = f" (median IoU {np.median(self.overlaps):.2f})" if self.overlaps else ""
        lines.append(
            f"boxes       {self.total(ACCEPTED):,} accepted, {self.total(MOVED):,} moved{median}, "
            f"{self.total(RENAMED):,} renamed, {self.total(BOTH):,} both, {self.total(ADDED):,} added, "
            f"{self.total(REMOVED):,} removed"
        )
        if self.pairs:
            pairs = [f"{names[old]} -> {names[new]} ({n:,})" for (old, new), n in self.pairs.most_common(_PAIRS)]
            lines.append(f"renamed     {', '.join(pairs)}")
        if self.unshown:
            lines.append(f"not shown   {self.unshown:,} boxes of reviewed images that the export excluded are gone")
        if self.enveloped:
            lines.append(f"envelopes   {self.enveloped:,} rotated or other shapes became the upright box around them")
        return lines


_DONE = {(False, False): ACCEPTED, (True, False): MOVED, (False, True): RENAMED, (True, True): BOTH}


def read_counts(data: bytes) -> Mapping[str, Any] | None:
    """Return what `Tally.to_dict` wrote; None for anything else."""
    try:
        values = plain_json.parse(data)
        return values if isinstance(values["boxes"], dict) else None
    except (ValueError, LookupError, TypeError):
        return None

"""What people said of a run's images and boxes, counted by category: the model against its reviewers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from labeler import plain_json, storage
from labeler.labels.detections import Detections
from labeler.runs import Run, layout

_SOURCES = ("accepted", "moved", "renamed", "moved+renamed", "added", "removed")


class Reviews:
    """Counts of the reviewed images and boxes of a run; a run that nobody reviewed has none."""

    def __init__(self) -> None:
        self._images: Counter[str] = Counter()
        self._boxes: dict[int, Counter[str]] = {}

    def add(self, table: pa.Table, found: Detections) -> None:
        """Count a unit's rows; `found` are all their detections."""
        if "review" in table.schema.names:
            self._images.update(review for review in table["review"].to_pylist() if review)
        if "source" not in found.more:
            return
        checked = found[found.reviewed]
        pairs = zip(checked.category_ids.tolist(), checked.more["source"], strict=True)
        for (category_id, source), count in Counter(pairs).items():
            self._boxes.setdefault(category_id, Counter())[source] += count

    def describe(self, run: Run) -> dict[str, Any] | None:
        """{sources, images: {complete, boxes}, categories: [[id, count of each source, ...], ...]} for the page.

        The boxes that reviewers removed are those that the run's corrections.json counts: no row has them.
        """
        if not self._images:
            return None
        removed = _removed(run)
        ids = sorted({*self._boxes, *removed})
        counts = {id_: self._boxes.get(id_, Counter()) + Counter(removed=removed.get(id_, 0)) for id_ in ids}
        return {
            "sources": _SOURCES,
            "images": dict(self._images),
            "categories": [[id_, *(counts[id_][name] for name in _SOURCES)] for id_ in ids],
        }


def _removed(run: Run) -> dict[int, int]:
    """Boxes of each category that reviewers removed; empty where the file is not there or cannot be read."""
    uri = run.path(layout.CORRECTIONS)
    if storage.head(uri) is None:
        return {}
    try:
        boxes = plain_json.parse(storage.read_bytes(uri))["boxes"]
        return {int(id_): int(counts["removed"]) for id_, counts in boxes.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}

"""An image's row after a change of the vocabulary: kept detections and those of the new passes, merged as at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.labels.detections import Detections
from labeler.labels.merge import merge
from labeler.labels.records import LABELED, Row

CUT = "detections that max_detections cut from the earlier run may be missing"
CHANGED = "its bytes are not those that the earlier run has labeled"


@dataclass(frozen=True)
class Change:
    """Changes that a revision makes to an earlier run's rows; plain values, so that Ray can carry it to the workers.

    Attributes:
        category_ids: of the earlier run -> now; detections of all others are dropped.
        passes: of the earlier run -> now.
        nms_iou, max_detections: as of `merge`.
    """

    category_ids: Mapping[int, int]
    passes: Mapping[int, int]
    nms_iou: float
    max_detections: int

    def apply(self, row: Row, earlier: Row) -> Row:
        """Return the row of an image.

        Args:
            row: of the new passes alone; as it is, if they failed, because half an answer would look whole.
            earlier: of the earlier run, which has labeled the image.
        """
        if row.status not in LABELED:
            return row
        if row.digest != earlier.digest:
            return replace(row, status="read_error", error=CHANGED, detections=Detections.empty())
        found, is_whole = self.merged(earlier.detections, row.detections)
        error = earlier.error if earlier.error or is_whole else CUT
        return replace(row, status="labeled" if len(found) else "empty", detections=found, error=error)

    def merged(self, earlier: Detections, new: Detections) -> tuple[Detections, bool]:
        """Return (detections of all passes, whether they are those of a run that makes all passes at once).

        Suppression is within a category, and a category is of the earlier passes or of the new ones. So each part has
        suppressed its own, and nothing was lost by it. What `max_detections` cut from the earlier run is lost: it would
        be among the result where the result goes down to the last score that was stored.
        """
        stays = np.isin(earlier.category_ids, list(self.category_ids))
        kept = replace(
            earlier[stays],
            category_ids=_mapped(earlier.category_ids[stays], self.category_ids, np.int32),
            chunks=_mapped(earlier.chunks[stays], self.passes, np.int16),
        )
        found = merge(Detections.concat([kept, new]), nms_iou=self.nms_iou, max_detections=self.max_detections)
        if not self.max_detections or len(earlier) < self.max_detections:
            return found, True
        if len(found) == self.max_detections and found.scores[-1] > earlier.scores.min():
            return found, True
        return found, bool(stays.all()) and self._keeps_order

    @property
    def _keeps_order(self) -> bool:
        """Return whether ties in score are broken as before: by the category's id."""
        return bool(np.all(np.diff([self.category_ids[id_] for id_ in sorted(self.category_ids)]) > 0))


def _mapped(values: npt.NDArray[Any], mapping: Mapping[int, int], dtype: type) -> npt.NDArray[Any]:
    known, places = np.unique(values, return_inverse=True)
    return np.array([mapping[int(value)] for value in known], dtype)[places]

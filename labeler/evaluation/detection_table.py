"""The detections of a whole data set as columns, in the ground truth's image and category positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.errors import Refused
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.detections import Detections
from labeler.truth.ground_truth import GroundTruth


@dataclass(frozen=True)
class DetectionTable:
    """28 bytes a detection of a run (4 + 4 + 4 + 16), 48 of a results file, and its masks.

    Attributes:
        image, category: (n,) int32 positions in the ground truth.
        scores: (n,) float.
        boxes_xywh: (n, 4) float pixels.
        masks: (n,) RLE objects {size, counts}, None for one that has none; or None when they were not read.
    """

    image: npt.NDArray[np.int32]
    category: npt.NDArray[np.int32]
    scores: npt.NDArray[np.floating[Any]]
    boxes_xywh: npt.NDArray[np.floating[Any]]
    masks: npt.NDArray[np.object_] | None = None

    @staticmethod
    def empty(*, masks: bool = False) -> DetectionTable:
        positions, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return DetectionTable(
            positions, positions, floats, floats.reshape(0, 4), np.empty(0, np.object_) if masks else None
        )

    @staticmethod
    def concat(parts: Sequence[DetectionTable], *, masks: bool = False) -> DetectionTable:
        if not parts:
            return DetectionTable.empty(masks=masks)
        return DetectionTable(
            np.concatenate([p.image for p in parts]),
            np.concatenate([p.category for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.boxes_xywh for p in parts]),
            np.concatenate([p.masks for p in parts if p.masks is not None]) if masks else None,
        )

    @staticmethod
    def of(truth: GroundTruth, found: Mapping[int, Detections] | Iterable[tuple[int, Detections]]) -> DetectionTable:
        """Return detections by image id; categories by id. Those of categories the ground truth does not have are
        excluded.

        Raises:
            Refused: an image id the ground truth does not have.
        """
        position_of = {int(id_): position for position, id_ in enumerate(truth.image_ids)}
        category_ids = np.array([category.id for category in truth.categories], np.int64)
        parts = []
        for image_id, detections in found.items() if isinstance(found, Mapping) else found:
            if image_id not in position_of:
                raise Refused(f"image id {image_id} of the detections is not in annotations {truth.source}")
            category = np.minimum(np.searchsorted(category_ids, detections.category_ids), len(category_ids) - 1)
            known = category_ids[category] == detections.category_ids
            image = np.full(int(known.sum()), position_of[image_id], np.int32)
            boxes = xyxy_to_xywh(detections.boxes[known])
            parts.append(DetectionTable(image, category[known].astype(np.int32), detections.scores[known], boxes))
        return DetectionTable.concat(parts)

    def masked(self) -> DetectionTable:
        """Return those that have a mask."""
        if self.masks is None:
            return self
        return self[np.array([mask is not None for mask in self.masks], np.bool_)]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Any) -> DetectionTable:
        """Return rows by boolean mask, index array or slice."""
        masks = None if self.masks is None else self.masks[rows]
        return replace(
            self,
            image=self.image[rows],
            category=self.category[rows],
            scores=self.scores[rows],
            boxes_xywh=self.boxes_xywh[rows],
            masks=masks,
        )

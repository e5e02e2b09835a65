"""One image's detections as a frozen struct of arrays; empty is a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image.

    Attributes:
        boxes: (n, 4) float32, xyxy in absolute pixels of the upright image.
        scores: (n,) float32 in [0, 1].
        category_ids: (n,) int32, the vocabulary's own ids.
        chunks: (n,) int16, the prompt chunk each detection came from.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int32]
    chunks: npt.NDArray[np.int16]

    def __post_init__(self) -> None:
        n = len(self.scores)
        got = (self.boxes.shape, self.scores.shape, self.category_ids.shape, self.chunks.shape)
        if got != ((n, 4), (n,), (n,), (n,)):
            raise ValueError(f"detections need boxes (n, 4) and three arrays (n,), got shapes {got}")

    @staticmethod
    def of(boxes: Any, scores: Any, category_ids: Any, chunks: Any | None = None) -> Detections:
        """Build from anything array-like; `chunks` defaults to chunk 0."""
        scores = np.asarray(scores, np.float32).reshape(-1)
        return Detections(
            np.asarray(boxes, np.float32).reshape(-1, 4),
            scores,
            np.asarray(category_ids, np.int32).reshape(-1),
            np.zeros(len(scores), np.int16) if chunks is None else np.asarray(chunks, np.int16).reshape(-1),
        )

    @staticmethod
    def empty() -> Detections:
        return Detections.of([], [], [])

    @staticmethod
    def concat(parts: Iterable[Detections]) -> Detections:
        parts = list(parts)
        if not parts:
            return Detections.empty()
        return Detections(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.category_ids for p in parts]),
            np.concatenate([p.chunks for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """Rows by boolean mask, index array or slice."""
        return Detections(self.boxes[index], self.scores[index], self.category_ids[index], self.chunks[index])

    def sorted(self) -> Detections:
        """By falling score; ties by category id, then by box, so that the order never depends on the batch."""
        x = self.boxes
        return self[np.lexsort((x[:, 3], x[:, 2], x[:, 1], x[:, 0], self.category_ids, -self.scores))]

    def top(self, n: int) -> Detections:
        """The `n` best by score, sorted; `n` = 0 keeps all."""
        best = self.sorted()
        return best[:n] if n else best

    def above(self, threshold: float) -> Detections:
        """Those with score >= threshold."""
        return self[self.scores >= threshold]

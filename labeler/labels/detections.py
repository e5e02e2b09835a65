"""One image's detections as a frozen struct of arrays; empty is a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.labels.extensions import Values, absent, in_order
from labeler.labels.masks import Mask


@dataclass(frozen=True)
class Detections:
    """The detections of one image.

    Attributes:
        boxes: (n, 4) float32, xyxy in absolute pixels of the upright image.
        scores: (n,) float32 in [0, 1].
        category_ids: (n,) int32, the vocabulary's own ids.
        chunks: (n,) int16, the prompt chunk each detection came from.
        masks: (n,) `Mask` or None each, at the upright image's size; None where no detection has one.
        more: (n,) each, optional columns by name, with null as in `extensions.absent`; most runs have none.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int32]
    chunks: npt.NDArray[np.int16]
    masks: npt.NDArray[np.object_] | None = None
    more: Mapping[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.scores)
        got = (self.boxes.shape, self.scores.shape, self.category_ids.shape, self.chunks.shape)
        if got != ((n, 4), (n,), (n,), (n,)):
            raise ValueError(f"detections need boxes (n, 4) and three arrays (n,), got shapes {got}")
        if self.masks is not None and self.masks.shape != (n,):
            raise ValueError(f"detections need a mask or None for each of {n}, got shape {self.masks.shape}")
        for name, values in self.more.items():
            if values.shape != absent(name, n).shape:
                raise ValueError(f"detections need {name} for each of {n}, got shape {values.shape}")

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
            _concat_masks(parts),
            _concat_more(parts),
        )

    def with_masks(self, masks: Sequence[Mask | None]) -> Detections:
        """Return the same detections with these masks, one for each."""
        column = np.empty(len(masks), np.object_)
        column[:] = masks
        return replace(self, masks=column)

    def count_masks(self) -> int:
        """Return how many have a mask."""
        return 0 if self.masks is None else sum(mask is not None for mask in self.masks)

    def mask_of(self, row: int) -> Mask | None:
        """Return the mask of one detection, None where it has none."""
        mask: Mask | None = None if self.masks is None else self.masks[row]
        return mask

    @property
    def reviewed(self) -> npt.NDArray[np.bool_]:
        """(n,) which a person has checked or drawn: no threshold, limit or suppression is about these."""
        source = self.more.get("source")
        if source is None:
            return np.zeros(len(self), np.bool_)
        return np.array([each is not None for each in source], np.bool_)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Detections:
        """Return rows by boolean mask, index array or slice."""
        masks = None if self.masks is None else self.masks[index]
        more = {name: values[index] for name, values in self.more.items()}
        plain = (self.boxes[index], self.scores[index], self.category_ids[index], self.chunks[index])
        return Detections(*plain, masks, more)

    @property
    def unscored(self) -> npt.NDArray[np.bool_]:
        """(n,) which of them have no score: theirs is 1, so that every threshold keeps them."""
        return np.asarray(self.more.get("unscored", np.zeros(len(self))) != 0, np.bool_)

    def known_scores(self, digits: int | None = 6) -> list[float | None]:
        """Return the scores that there are, rounded to this many digits; None where there is none. For exports."""
        scores = self.scores if digits is None else np.round(self.scores.astype(np.float64), digits)
        return [None if lacks else score for score, lacks in zip(scores.tolist(), self.unscored, strict=True)]

    def order(self) -> npt.NDArray[np.intp]:
        """Return (n,) places by falling score; ties by category id, then by box: the order never
        depends on the batch.
        """
        x = self.boxes
        return np.lexsort((x[:, 3], x[:, 2], x[:, 1], x[:, 0], self.category_ids, -self.scores))

    def sorted(self) -> Detections:
        """In `order`."""
        return self[self.order()]

    def top(self, n: int) -> Detections:
        """Return the `n` best by score, sorted; `n` = 0 keeps all."""
        best = self.sorted()
        return best[:n] if n else best

    def above(self, threshold: float) -> Detections:
        """Return those with score >= threshold."""
        return self[self.scores >= threshold]


def _concat_masks(parts: Sequence[Detections]) -> npt.NDArray[np.object_] | None:
    if all(part.masks is None for part in parts):
        return None
    return np.concatenate([np.full(len(p), None, np.object_) if p.masks is None else p.masks for p in parts])


def _concat_more(parts: Sequence[Detections]) -> dict[str, Values]:
    """Return every column that any part has; null where a part has it not."""
    names = in_order({name for part in parts for name in part.more})
    return {name: np.concatenate([part.more.get(name, absent(name, len(part))) for part in parts]) for name in names}

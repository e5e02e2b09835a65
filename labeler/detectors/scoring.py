"""From scores of phrases to candidates, and from those to detections: the same for every family.

A pass's phrases are known by their place; nothing is ever decoded from words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.detectors.network import Scored
from labeler.labels.boxes import area, clip_to_image, cxcywh_to_xyxy, scale_to_pixels
from labeler.labels.detections import Detections
from labeler.prompts import PromptPlan

Array = npt.NDArray[Any]
_NEVER = -1.0  # below every score: scores are >= 0
NOBODY = -1  # the group of what counts nowhere: separators, padding


class Scorer:
    """Scores every category of every pass. Holds the passes' maps on the device, padded to the largest pass."""

    def __init__(
        self,
        plan: PromptPlan,
        device: torch.device,
        *,
        assignment: str,
        candidates: int,
        boxes: Literal["cxcywh", "xyxy"] = "cxcywh",
    ) -> None:
        """
        Args:
            assignment: "argmax" gives each query its one best category; "flattened" lets every (query, category) pair
                stand for itself and keeps the best `candidates` pairs of a pass (0: all).
            boxes: the frame of the network's boxes.
        """
        self.assignment, self.candidates, self.boxes = assignment, candidates, boxes
        tables = [_PassTable.of(categories, plan.negative_ids) for categories in plan.phrase_categories]
        self.category_ids = [table.category_ids for table in tables]
        self.categories = max(len(table.category_ids) for table in tables)
        # (passes, phrases), the category each phrase belongs to; (passes, categories)
        self.category_of_phrase = stack([table.category_of_phrase for table in tables], NOBODY, device)
        self.negative = stack([table.negative for table in tables], False, device)

    def __call__(self, scored: Scored, passes: Tensor) -> Tensor:
        """Return what to copy to the host of (image, pass) pairs: everything detections are made of, and no more.

        Args:
            passes: (pairs,) which pass each pair has.

        Returns:
            (pairs, candidates, 6) float32: box in parts of the model's input, score, the category's number in its
            pass. All scores of a pair that is NaN or infinite are NaN.
        """
        scores = self.category_scores(scored.scores, passes)
        choose = self._best_category if self.assignment == "argmax" else self._best_pairs
        found, query, category = choose(scores, self.negative[passes])
        chosen = torch.gather(scored.boxes, 1, query[..., None].expand(-1, -1, 4))
        found = torch.where(scored.finite[:, None], found, float("nan"))
        return torch.cat([chosen, found[..., None], category[..., None].to(scored.boxes.dtype)], dim=-1)

    def category_scores(self, phrases: Tensor, passes: Tensor) -> Tensor:
        """Return (pairs, queries, categories) in [0, 1]: the max over a category's phrases.

        -1 where the pass has fewer categories than the largest.
        """
        return max_by_group(phrases, self.category_of_phrase[passes], self.categories)

    def _best_category(self, scores: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each query to its best category. A negative that wins keeps the query; `merge` drops it with the
        query.
        """
        best, category = scores.max(-1)
        query = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
        return best, query, category

    def _best_pairs(self, scores: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best (query, category) pairs. A category that a negative outscores on a query loses that query.

        That is the rule of argmax too, so both assignments mean the same by "negative". The negative's own pairs are
        excluded at once: they would take places among the candidates.
        """
        negative = negative[:, None]  # (pairs, 1, categories)
        strongest = scores.masked_fill(~negative, _NEVER).amax(-1, keepdim=True)
        standing = scores.masked_fill(negative | (scores < strongest), _NEVER).flatten(1)
        count = min(self.candidates or standing.shape[1], standing.shape[1])
        best, place = standing.topk(count, dim=1)
        return best, place // scores.shape[2], place % scores.shape[2]

    def detections(
        self,
        rows: Array,
        number: int,
        *,
        floor: float,
        height: int,
        width: int,
        frame: tuple[float, float] | None = None,
    ) -> Detections:
        """Return one pair's candidates as detections in pixels of its height x width image, clipped to it.

        Below `floor` and boxes with no area inside the image are excluded.

        Args:
            rows: (candidates, 6) on the host, one pair of what calling this returned.
            number: of the pass.
            frame: (height, width) of the model's input in the image's pixels, None where the image fills it.
        """
        rows = rows[rows[:, 4] >= floor]
        corners = cxcywh_to_xyxy(rows[:, :4]) if self.boxes == "cxcywh" else rows[:, :4]
        whole_height, whole_width = frame or (height, width)
        boxes = scale_to_pixels(corners, height=whole_height, width=whole_width)
        boxes = clip_to_image(boxes, height=height, width=width)
        category_ids = self.category_ids[number][rows[:, 5].astype(np.int64)]
        found = Detections.of(boxes, rows[:, 4], category_ids, np.full(len(rows), number, np.int16))
        return found[area(boxes) > 0]


@dataclass(frozen=True)
class _PassTable:
    """One pass's maps; categories are numbered by first appearance in the pass.

    The negatives come last in a pass, so a tie in argmax goes to a real category.
    """

    category_ids: Array  # (categories,) int32
    category_of_phrase: Array  # (phrases,) int64
    negative: Array  # (categories,) bool

    @staticmethod
    def of(categories: Sequence[int], negative_ids: frozenset[int]) -> _PassTable:
        """
        Args:
            categories: the category id of each phrase.
        """
        ids = list(dict.fromkeys(categories))
        category_of_phrase = np.array([ids.index(category_id) for category_id in categories], np.int64)
        negative = np.array([category_id in negative_ids for category_id in ids], np.bool_)
        return _PassTable(np.array(ids, np.int32), category_of_phrase, negative)


def stack(parts: Sequence[Array], fill: float, device: torch.device) -> Tensor:
    """Return one array per pass, padded at its end to the largest, as one tensor (passes, ...)."""
    largest = np.max([part.shape for part in parts], axis=0)
    whole = np.full((len(parts), *largest), fill, parts[0].dtype)
    for number, part in enumerate(parts):
        inside = tuple(slice(0, length) for length in part.shape)
        whole[number][inside] = part
    return torch.from_numpy(whole).to(device)


def max_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Max over the last axis by group: values (pairs, queries, n), group (pairs, n) -> (pairs, queries, groups).

    Members of `NOBODY` count nowhere; an empty group has -1.
    """
    index = torch.where(group == NOBODY, groups, group)[:, None].expand_as(values)
    best = torch.full((*values.shape[:2], groups + 1), _NEVER, dtype=values.dtype, device=values.device)
    return best.scatter_reduce_(2, index, values, "amax")[..., :groups]

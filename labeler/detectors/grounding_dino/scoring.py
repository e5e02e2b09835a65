"""From token logits to categories, by positive map: which tokens belong to which category is known, never decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.errors import Refused
from labeler.labels.boxes import area, clip_to_image, cxcywh_to_xyxy, scale_to_pixels
from labeler.labels.detections import Detections
from labeler.prompts.grounding_dino import PromptChunk, Prompts, positive_map

ASSIGNMENTS = ("argmax", "flattened")
REDUCTIONS = ("mean", "max")
Array = npt.NDArray[Any]
_NEVER = -1.0  # below every score: sigmoids are >= 0
_NOBODY = -1  # the phrase of a separator, the category of padding


def check_choices(*, score: str, assignment: str) -> None:
    """Refused for a reduction or an assignment that there is not."""
    if score not in REDUCTIONS:
        raise Refused(f"score is one of {', '.join(REDUCTIONS)}; got {score}")
    if assignment not in ASSIGNMENTS:
        raise Refused(f"assignment is one of {', '.join(ASSIGNMENTS)}; got {assignment}")


class Scorer:
    """Scores every category of every chunk. Holds the chunks' maps on the device, padded to the largest chunk."""

    def __init__(
        self, prompts: Prompts, width: int, device: torch.device, *, score: str, assignment: str, candidates: int
    ) -> None:
        """
        Args:
            prompts: the chunks.
            width: tokens of the longest chunk, as in the logits.
            score: "mean" or "max" over the tokens of a phrase.
            assignment: "argmax" gives each query its one best category; "flattened" lets every (query, category) pair
                stand for itself and keeps the best `candidates` pairs of a chunk (0: all).
        """
        check_choices(score=score, assignment=assignment)
        self.score, self.assignment, self.candidates = score, assignment, candidates
        tables = [_ChunkTable.of(chunk, width, prompts.negative_ids) for chunk in prompts.chunks]
        self.category_ids = [table.category_ids for table in tables]
        self.phrases = max(table.phrase_tokens.shape[0] for table in tables)
        self.categories = max(len(table.category_ids) for table in tables)
        # (chunks, phrases, width), 1 / number of the phrase's tokens at each of them
        self.phrase_tokens = _stack([table.phrase_tokens for table in tables], 0, device)
        # (chunks, width), the phrase each token belongs to; (chunks, phrases), the category each phrase belongs to
        self.phrase_of_token = _stack([table.phrase_of_token for table in tables], _NOBODY, device)
        self.category_of_phrase = _stack([table.category_of_phrase for table in tables], _NOBODY, device)
        self.negative = _stack([table.negative for table in tables], False, device)  # (chunks, categories)

    def __call__(self, logits: Tensor, boxes: Tensor, token_mask: Tensor, chunks: Tensor) -> Tensor:
        """What to copy to the host of (image, chunk) pairs: everything detections are made of, and no more.

        Args:
            logits: (pairs, queries, width) float32, -inf at padding.
            boxes: (pairs, queries, 4) float32, cxcywh in parts of the image.
            token_mask: (pairs, width), True for a token.
            chunks: (pairs,) which chunk each pair has.

        Returns:
            (pairs, candidates, 6) float32: box cxcywh in parts of the image, score, the category's number in its
            chunk. All scores of a pair with any logit or box that is not finite are NaN.
        """
        finite = (logits.isfinite() | ~token_mask[:, None]).all(-1).all(-1) & boxes.isfinite().all(-1).all(-1)
        scores = self.category_scores(logits, chunks)
        choose = self._best_category if self.assignment == "argmax" else self._best_pairs
        found, query, category = choose(scores, self.negative[chunks])
        chosen = torch.gather(boxes, 1, query[..., None].expand(-1, -1, 4))
        found = torch.where(finite[:, None], found, float("nan"))
        return torch.cat([chosen, found[..., None], category[..., None].to(boxes.dtype)], dim=-1)

    def category_scores(self, logits: Tensor, chunks: Tensor) -> Tensor:
        """(pairs, queries, categories) in [0, 1]; -1 where the chunk has fewer categories than the largest.

        p = sigmoid(logit) per token; the mean or max over a phrase's tokens; the max over a category's phrases.
        """
        p = logits.sigmoid()  # first, because padding is -inf
        if self.score == "mean":
            phrases = p @ self.phrase_tokens[chunks].transpose(1, 2)  # (pairs, queries, phrases)
        else:
            phrases = _max_by_group(p, self.phrase_of_token[chunks], self.phrases)
        return _max_by_group(phrases, self.category_of_phrase[chunks], self.categories)

    def _best_category(self, scores: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each query to its best category. A negative that wins keeps the query; `merge` drops it with the query."""
        best, category = scores.max(-1)
        query = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
        return best, query, category

    def _best_pairs(self, scores: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best (query, category) pairs. A category that a negative outscores on a query loses that query.

        That is the rule of argmax too, so both assignments mean the same by "negative". The negative's own pairs are
        left out at once: they would take places among the candidates.
        """
        negative = negative[:, None]  # (pairs, 1, categories)
        strongest = scores.masked_fill(~negative, _NEVER).amax(-1, keepdim=True)
        standing = scores.masked_fill(negative | (scores < strongest), _NEVER).flatten(1)
        count = min(self.candidates or standing.shape[1], standing.shape[1])
        best, place = standing.topk(count, dim=1)
        return best, place // scores.shape[2], place % scores.shape[2]

    def detections(self, rows: Array, chunk: int, *, floor: float, height: int, width: int) -> Detections:
        """One pair's candidates as detections in pixels of its height x width image, clipped to it.

        Below `floor` and boxes with no area inside the image are left out.

        Args:
            rows: (candidates, 6) on the host, one pair of what calling this returned.
            chunk: the chunk's place in the prompts.
        """
        rows = rows[rows[:, 4] >= floor]
        boxes = scale_to_pixels(cxcywh_to_xyxy(rows[:, :4]), height=height, width=width)
        boxes = clip_to_image(boxes, height=height, width=width)
        category_ids = self.category_ids[chunk][rows[:, 5].astype(np.int64)]
        found = Detections.of(boxes, rows[:, 4], category_ids, np.full(len(rows), chunk, np.int16))
        return found[area(boxes) > 0]


@dataclass(frozen=True)
class _ChunkTable:
    """One chunk's maps; categories are numbered by first appearance in the chunk.

    The negatives come last in a chunk, so a tie in argmax goes to a real category.
    """

    category_ids: Array  # (categories,) int32
    phrase_tokens: Array  # (phrases, width) float32
    phrase_of_token: Array  # (width,) int64
    category_of_phrase: Array  # (phrases,) int64
    negative: Array  # (categories,) bool

    @staticmethod
    def of(chunk: PromptChunk, width: int, negative_ids: frozenset[int]) -> _ChunkTable:
        phrase_tokens = positive_map(chunk, width)
        ids = list(dict.fromkeys(phrase.category_id for phrase in chunk.phrases))
        phrase_of_token = np.where(phrase_tokens.any(0), phrase_tokens.argmax(0), _NOBODY)  # `.` is nobody's
        category_of_phrase = np.array([ids.index(phrase.category_id) for phrase in chunk.phrases], np.int64)
        negative = np.array([category_id in negative_ids for category_id in ids], np.bool_)
        return _ChunkTable(np.array(ids, np.int32), phrase_tokens, phrase_of_token, category_of_phrase, negative)


def _stack(parts: Sequence[Array], fill: float, device: torch.device) -> Tensor:
    """One array per chunk, padded at its end to the largest, as one tensor (chunks, ...)."""
    largest = np.max([part.shape for part in parts], axis=0)
    whole = np.full((len(parts), *largest), fill, parts[0].dtype)
    for number, part in enumerate(parts):
        inside = tuple(slice(0, length) for length in part.shape)
        whole[number][inside] = part
    return torch.from_numpy(whole).to(device)


def _max_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Max over the last axis by group: values (pairs, queries, n), group (pairs, n) -> (pairs, queries, groups).

    Members of `_NOBODY` count nowhere; an empty group has -1.
    """
    index = torch.where(group == _NOBODY, groups, group)[:, None].expand_as(values)
    best = torch.full((*values.shape[:2], groups + 1), _NEVER, dtype=values.dtype, device=values.device)
    return best.scatter_reduce_(2, index, values, "amax")[..., :groups]

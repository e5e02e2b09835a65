"""Grounding DINO as a network of its family: one of its two forward passes, and tokens scored phrase by phrase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from labeler.detectors.grounding_dino import profiling
from labeler.detectors.grounding_dino.engine import choose_engine
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.scoring import phrase_table, score_phrases
from labeler.detectors.grounding_dino.split_forward import ImageFeatures, SplitForward, TextFeatures
from labeler.detectors.network import Scored, Setup
from labeler.detectors.ranges import Ranges, replaced
from labeler.errors import Refused
from labeler.prompts import PromptPlan
from labeler.prompts.grounding_dino import Prompts


@dataclass(frozen=True)
class ChunkText:
    """Prompt chunks after the text encoder, and which of their tokens are which phrase: `phrase_table`'s rows.

    Attributes:
        phrases: of the largest chunk of their plan.
    """

    features: TextFeatures
    table: Tensor
    phrases: int

    def take(self, index: Tensor) -> ChunkText:
        """Return the chunks at these indices, repeats allowed."""
        return ChunkText(self.features.take(index), self.table.index_select(0, index), self.phrases)


class ChunkNetwork:
    """A `Network[ImageFeatures, ChunkText]`: every pass is a prompt chunk.

    Attributes:
        forward: what runs, transformers' own modules or the fast engine.
    """

    boxes: ClassVar[Literal["cxcywh", "xyxy"]] = "cxcywh"
    pass_parts: ClassVar = profiling.PASS_PARTS

    def __init__(self, model: Any, plan: PromptPlan, setup: Setup) -> None:
        """
        Args:
            model: a float32 GroundingDinoForObjectDetection or MMGroundingDinoForObjectDetection, in eval mode.

        Raises:
            Refused: the model is of a kind that is not supported, or a chunk is longer than it reads.
        """
        if not isinstance(plan, Prompts):
            raise TypeError(f"{setup.name} reads prompt chunks, got a plan of the family {plan.family}")
        longest = model.config.max_text_len
        too_long = [chunk.index for chunk in plan.chunks if len(chunk.input_ids) > longest]
        if too_long:
            raise Refused(f"prompt chunk {too_long[0]} is longer than the {longest} tokens {setup.name} reads")
        self.forward, self._prompts, self._setup = SplitForward(model, half=setup.half), plan, setup

    @property
    def half(self) -> torch.dtype | None:
        return self.forward.half

    @half.setter
    def half(self, half: torch.dtype | None) -> None:
        self.forward.half = half

    @property
    def device(self) -> torch.device:
        return self.forward.device

    @property
    def engine(self) -> str:
        return "fast" if isinstance(self.forward, FastForward) else "transformers"

    @property
    def recordable(self) -> bool:
        return isinstance(self.forward, FastForward)

    @property
    def candidates(self) -> int:
        return self.forward.num_queries

    @property
    def least_side(self) -> int:
        return self.forward.least_side

    @property
    def kept(self) -> object:
        return self.forward.last_kept

    def encode_text(self) -> ChunkText:
        return self.encode_names(self._prompts)

    def encode_names(self, plan: PromptPlan) -> ChunkText:
        """As of `NarrowNetwork`."""
        assert isinstance(plan, Prompts)
        features = self.forward.encode_text(
            [chunk.input_ids for chunk in plan.chunks], whole=plan.whole, least=plan.padding.tokens
        )
        table = phrase_table(plan, features.token_mask.shape[1], self.device, score=self._setup.score)
        return ChunkText(features, table, max(map(len, plan.phrase_categories)))

    def start(self, text: ChunkText) -> str:
        """Take the fast engine where it comes out equal. Refused where it was asked for, and does not run here."""
        setup = self._setup
        self.forward, words = choose_engine(setup.engine, self.forward, text.features, setup.rule, setup.name)
        return words

    def encode_image(self, pixels: Tensor) -> ImageFeatures:
        return self.forward.encode_image(pixels)

    def positions(self, image: ImageFeatures) -> int:
        return image.features.shape[1]

    def detect(self, image: ImageFeatures, text: ChunkText) -> Scored:
        logits, boxes = self.forward.detect(image, text.features)
        return self._score(logits, boxes, text)

    def _score(self, logits: Tensor, boxes: Tensor, text: ChunkText) -> Scored:
        return score_phrases(logits, boxes, text.features.token_mask, text.table, text.phrases)

    @contextmanager
    def instrumented(self, ranges: Ranges) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(replaced(self, "_score", ranges.within("scoring", self._score)))
            stack.enter_context(profiling.instrumented(self.forward, ranges))
            yield

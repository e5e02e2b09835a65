"""Grounding DINO, MM-Grounding-DINO and LLMDet without torch: their images, and a vocabulary as prompt chunks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from labeler.config import ModelConfig, PromptsConfig
from labeler.prompts.family import PlanReport, PromptPlan, Revision
from labeler.prompts.grounding_dino.chunks import NAME, Prompts, check, pack
from labeler.prompts.grounding_dino.narrowed import narrow
from labeler.prompts.grounding_dino.revision import revise
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.prompts.image_rule import ImageRule, edges_of, rule_from
from labeler.vocabulary import Vocabulary

DEFAULT_IMAGE_SIZE = (800, 1333)  # what both kinds were trained with; for checkpoints that do not say


@dataclass(frozen=True)
class ChunkPlanner:
    """A `Planner` that packs a vocabulary into chunks of one checkpoint's tokens."""

    tokenizer: Tokenizer

    @property
    def digests(self) -> Mapping[str, str]:
        return {"tokenizer": self.tokenizer.digest}

    def check(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
        return check(vocabulary, self.tokenizer, prompts.max_tokens)

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> Prompts:
        return pack(
            vocabulary,
            self.tokenizer,
            max_tokens=prompts.max_tokens,
            max_categories=prompts.max_categories,
            protocol=prompts.protocol,
        )

    def revise(self, plan: PromptPlan, vocabulary: Vocabulary, prompts: PromptsConfig) -> Revision:
        """As of `Reviser`."""
        assert isinstance(plan, Prompts)
        return revise(plan, vocabulary, self.tokenizer, prompts)


@dataclass(frozen=True)
class GroundingDinoFamily:
    """The family whose chunks of tokens are scored token by token; a `Family`."""

    name: ClassVar = NAME
    version: ClassVar = 1
    architectures: ClassVar[Mapping[str, str]] = {
        "grounding-dino": "GroundingDinoForObjectDetection",
        "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
    }
    network: ClassVar = "labeler.detectors.grounding_dino.network:ChunkNetwork"
    text_files: ClassVar = ("tokenizer.json", "vocab.txt")
    score_floor: ClassVar = 0.05
    options: ClassVar = frozenset(
        {
            "detect.score",
            "detect.cuda_graphs",
            "model.engine",
            "prompts.max_tokens",
            "prompts.max_categories",
            "prompts.protocol",
        }
    )

    def image_rule(self, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
        return rule_from(processor, name, "edges", edges_of(processor, name, DEFAULT_IMAGE_SIZE))

    def planner(self, folder: Path, model: ModelConfig) -> ChunkPlanner:
        return ChunkPlanner(Tokenizer.load(folder))

    def narrow(self, plan: PromptPlan, category_ids: Collection[int]) -> Prompts:
        """As of `Narrower`: their phrases, packed again."""
        assert isinstance(plan, Prompts)
        return narrow(plan, category_ids)

    def plan_from_json(self, data: Mapping[str, Any]) -> Prompts:
        return Prompts.from_json(data)

"""What stands for a user's `Detector` where a family is asked for: it takes images and phrases as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from labeler.config import ModelConfig, PromptsConfig
from labeler.prompts.family import Cost, PlanReport
from labeler.prompts.image_rule import AS_THEY_ARE, ImageRule
from labeler.prompts.phrase_plan import PhrasePlan
from labeler.vocabulary import Vocabulary


@dataclass(frozen=True)
class ModulePlan(PhrasePlan):
    """All phrases, handed to a user's detector when it is made."""

    def lines(self) -> list[str]:
        return [f"{len(self.phrases):,} phrases, all given to {self.family}"]

    def cost(self) -> Cost:
        return Cost(f"call of {self.family}", "merge of its detections")


@dataclass(frozen=True)
class ModuleFamily:
    """A `Family` and its own `Planner`, of one module with a `Detector`.

    Attributes:
        name: of the module.
        version: its VERSION.
        own_options: names below `model.options` that it takes, and "dtype" if `model.dtype` is for it.
    """

    name: str
    version: int
    own_options: frozenset[str] = frozenset()
    architectures: ClassVar[Mapping[str, str]] = {}  # no checkpoint is of it: only the config names it
    network: ClassVar = ""
    text_files: ClassVar[tuple[str, ...]] = ()
    score_floor: ClassVar = 0.05
    digests: ClassVar[Mapping[str, str]] = {}

    @property
    def options(self) -> frozenset[str]:
        own = self.own_options
        return frozenset({"model.dtype"} & {f"model.{name}" for name in own}) | {f"model.options.{o}" for o in own}

    def image_rule(self, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
        return AS_THEY_ARE

    def planner(self, folder: Path, model: ModelConfig) -> ModuleFamily:
        return self

    def check(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
        return PlanReport()

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> ModulePlan:
        phrases = PhrasePlan.of(self.name, vocabulary)
        return ModulePlan(phrases.family, phrases.phrases, phrases.negative_ids)

    def plan_from_json(self, data: Mapping[str, Any]) -> PhrasePlan:
        return PhrasePlan.from_json(data)


@dataclass(frozen=True)
class StoredPlan:
    """A `PromptPlan` of a run whose module need not be here: enough to read the run, and to add masks to it.

    Attributes:
        data: of prompts.json.
        fingerprint: of the plan, as the run has it.
    """

    data: Mapping[str, Any]
    fingerprint: str
    passes: ClassVar = 1
    phrase_categories: ClassVar[tuple[tuple[int, ...], ...]] = ()
    negative_ids: ClassVar[frozenset[int]] = frozenset()

    @property
    def family(self) -> str:
        return str(self.data.get("family", "unknown"))

    def lines(self) -> list[str]:
        return [f"prompts of {self.family}"]

    def cost(self) -> Cost:
        return Cost(f"image of {self.family}", f"pass of {self.family}")

    def settings(self) -> dict[str, Any]:
        phrases = self.data.get("phrases")
        counts = {"prompt_passes": 1, "prompt_phrases": len(phrases)} if isinstance(phrases, list) else {}
        return {"family": self.family, **counts}

    def to_json(self) -> dict[str, Any]:
        return dict(self.data)

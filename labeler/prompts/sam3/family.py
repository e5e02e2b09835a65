"""SAM 3 without torch: its images, and a vocabulary as phrases in CLIP tokens, a pass for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from labeler.config import ModelConfig, PromptsConfig
from labeler.errors import Refused
from labeler.prompts import clip_tokenizer
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.prompts.family import PlanReport, PromptPlan
from labeler.prompts.image_rule import ImageRule, rule_from
from labeler.prompts.sam3.plan import NAME, TOKENS, PhrasePasses, TokenizedPhrase
from labeler.vocabulary import Category, Vocabulary, refuse

DEFAULT_SIDE = 1008  # pixels of a side of its square input; positions fit no other
HALF = [0.5] * 3  # mean and standard deviation of its pixels, where the checkpoint does not say
_MANY_PASSES = 200  # from here on a warning says what a pass costs


def side_of(config: Mapping[str, Any]) -> Any:
    """Return pixels of a side of the input by config.json, of the whole model for videos or of its detector alone."""
    inner: Any = config.get("detector_config") or config
    for part in ("vision_config", "backbone_config", "image_size"):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return DEFAULT_SIDE if inner is None else inner


@dataclass(frozen=True)
class PhrasePlanner:
    """A `Planner` with one pass per phrase."""

    tokenizer: ClipTokenizer

    @property
    def digests(self) -> Mapping[str, str]:
        return {"tokenizer": self.tokenizer.digest}

    def check(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
        problems, passes = [], 0
        for category in vocabulary.categories:
            passes += len(category.phrases)
            problems += [f"{vocabulary.where(category)}: {problem}" for problem in self._problems(category)]
        costly = [f"{passes} phrases are {passes} passes an image"] if passes >= _MANY_PASSES else []
        return PlanReport(problems, [*vocabulary.warnings, *costly])

    def _problems(self, category: Category) -> list[str]:
        if category.negative:
            return ["a negative competes with nothing in SAM 3, which looks for each phrase alone; leave it out"]
        counts = {text: len(self.tokenizer.ids(text)) for text in category.phrases}
        return [
            f"{text!r} has {count} tokens with start and end; SAM 3 takes {TOKENS}"
            for text, count in counts.items()
            if count > TOKENS
        ]

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PhrasePasses:
        report = self.check(vocabulary, prompts)
        if report.problems:
            raise refuse(vocabulary.name, report.problems)
        phrases = ((c.id, text) for c in vocabulary.categories for text in c.phrases)
        return PhrasePasses(tuple(TokenizedPhrase(i, text, tuple(self.tokenizer.ids(text))) for i, text in phrases))


@dataclass(frozen=True)
class Sam3Family:
    """The family that looks for one phrase per pass, and can draw what it finds; a `Family`."""

    name: ClassVar = NAME
    version: ClassVar = 1
    architectures: ClassVar[Mapping[str, str]] = {"sam3": "Sam3Model", "sam3_video": "Sam3Model"}
    network: ClassVar = "labeler.detectors.sam3.network:Sam3Network"
    score_floor: ClassVar = 0.05
    text_files: ClassVar = clip_tokenizer.FILES
    options: ClassVar[frozenset[str]] = frozenset()

    def image_rule(self, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
        side = side_of(config)
        size = processor.get("size") or {"height": side, "width": side}
        if size != {"height": side, "width": side}:
            raise Refused(f"checkpoint {name}: the image processor's size {size} is not the model's {side} pixels")
        return rule_from({"image_mean": HALF, "image_std": HALF, **processor}, name, "stretch", (side, side))

    def planner(self, folder: Path, model: ModelConfig) -> PhrasePlanner:
        return PhrasePlanner(ClipTokenizer.load(folder))

    def narrow(self, plan: PromptPlan, category_ids: Collection[int]) -> PhrasePasses:
        """As of `Narrower`: the passes of these categories."""
        assert isinstance(plan, PhrasePasses)
        wanted = frozenset(category_ids)
        return replace(plan, phrases=tuple(phrase for phrase in plan.phrases if phrase.category_id in wanted))

    def plan_from_json(self, data: Mapping[str, Any]) -> PhrasePasses:
        return PhrasePasses.from_json(data)

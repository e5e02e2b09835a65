"""What a family of detectors says without torch: which checkpoints are its own, their images, and their prompts.

The other half, its network, is a class that `labeler.detectors.network` describes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from labeler import storage
from labeler.config import ModelConfig, PromptsConfig
from labeler.prompts.image_rule import ImageRule
from labeler.vocabulary import Vocabulary
from labeler.vocabulary.reading import show

CROPS = "vocabulary.phrases.image"  # the option of families that look for images, too


@dataclass(frozen=True)
class PlanReport:
    """Findings about a vocabulary for a checkpoint, one line each; problems refuse the run, warnings do not."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """The cost of an image: in words, the part that runs once for it, and the part that runs in each of its passes."""

    per_image: str
    per_pass: str


class PromptPlan(Protocol):
    """A family's plan for a vocabulary: the passes per image, and the phrases of each."""

    @property
    def family(self) -> str:
        """The family's name."""

    @property
    def passes(self) -> int:
        """Passes of the network for each image."""

    @property
    def phrase_categories(self) -> Sequence[Sequence[int]]:
        """Of each pass the category id of each phrase, in the order of its scores; those of negatives come last."""

    @property
    def negative_ids(self) -> frozenset[int]:
        """Categories that are looked for only to keep their objects from others."""

    @property
    def fingerprint(self) -> str:
        """blake2b-128, hex, of everything the network sees of the vocabulary."""

    def lines(self) -> list[str]:
        """Return what `labeler vocabulary check` and `label --dry-run` print of it; the first follows "80 categories
        in".
        """

    def cost(self) -> Cost:
        """Return what is paid once an image, and what once a pass."""

    def settings(self) -> dict[str, Any]:
        """Return what an evaluation's protocol records of it, as plain data."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for prompts.json; the inverse of its family's `plan_from_json`."""


class Planner(Protocol):
    """A maker of plans for one checkpoint; it has read the files that turn words into prompts."""

    @property
    def digests(self) -> Mapping[str, str]:
        """The fingerprint's fields about those files: name -> digest."""

    def check(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
        """Return everything that is wrong with a vocabulary, all at once. Refused for settings that
        no plan can keep.
        """

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PromptPlan:
        """Return the plan for a vocabulary. Refused, with every problem that `check` finds."""


@dataclass(frozen=True)
class Revision:
    """A plan that was given another vocabulary, and how the detections made with it change.

    Attributes:
        plan: the revised one.
        new_passes: those of `plan` that have to be run; the others were, with the same text.
        category_ids: category id of a kept detection -> its id now; detections of all others are dropped.
        passes: pass of the earlier plan -> the same one in `plan`.
        exact: whether the kept passes are padded as they were: if not, running them again may round scores otherwise.
    """

    plan: PromptPlan
    new_passes: tuple[int, ...]
    category_ids: Mapping[int, int]
    passes: Mapping[int, int]
    exact: bool


@runtime_checkable
class Reviser(Protocol):
    """A planner whose plans can be given another vocabulary, because some of its passes stay as they were."""

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PromptPlan:
        """As of `Planner`."""

    def revise(self, plan: PromptPlan, vocabulary: Vocabulary, prompts: PromptsConfig) -> Revision:
        """Give a plan of this planner another vocabulary. Refused where nothing of it can be kept."""


@runtime_checkable
class Owner(Protocol):
    """A planner whose checkpoint has a vocabulary of its own."""

    def own_vocabulary(self) -> Vocabulary:
        """Return what `vocabulary: from_model` means. Refused where the checkpoint's labels are not names."""


class Family(Protocol):
    """A kind of detectors. Picklable: workers are handed it."""

    @property
    def name(self) -> str:
        """In the fingerprint and in prompts.json, but for Grounding DINO, whose runs never had it."""

    @property
    def version(self) -> int:
        """Raised when equal weights and words would give other rows; in the fingerprint."""

    @property
    def architectures(self) -> Mapping[str, str]:
        """config.json's `model_type` -> name of the class in transformers."""

    @property
    def network(self) -> str:
        """Its network, as "module:class"; imported where a model is loaded, because it needs torch."""

    @property
    def text_files(self) -> tuple[str, ...]:
        """Files of which a checkpoint needs one, for the words; empty where no text is read."""

    @property
    def options(self) -> frozenset[str]:
        """Options it has of those that only some families have, as "section.key"; see `config.OF_FAMILY`."""

    @property
    def score_floor(self) -> float:
        """Of `detect.score_floor` where the config says none: the scores of families have different scales."""

    def image_rule(self, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
        """Return how a checkpoint wants its images.

        Args:
            processor: its image processor's settings, {} where it has none.
            config: its config.json.
            name: of the checkpoint, for refusals.

        Raises:
            Refused: the settings are not usable, or the config says that the model cannot run here.
        """

    def planner(self, folder: Path, model: ModelConfig) -> Planner:
        """Return what makes plans for the checkpoint in a folder. Refused where its files are not usable.

        Args:
            model: the config's section, for families whose plans depend on it.
        """

    def plan_from_json(self, data: Mapping[str, Any]) -> PromptPlan:
        """Return a plan from prompts.json. Refused where that is damaged."""


@runtime_checkable
class Narrower(Protocol):
    """A family whose plans can be asked for some of their categories alone."""

    def narrow(self, plan: PromptPlan, category_ids: Collection[int]) -> PromptPlan:
        """Return the plan for these categories and the negatives, in the order of `plan`: equal sets have equal
        prompts.

        Args:
            category_ids: at least one that is not negative; all of them in `plan`.
        """


def check_names(family: Family | None, planner: Planner, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
    """Return what `planner.check` finds, or crops where the family does not look for images.

    Args:
        family: of the planner; None where it is known that there are no crops.
    """
    crops = [] if family is None or CROPS in family.options else refused_crops(family, vocabulary)
    return PlanReport(crops, list(vocabulary.warnings)) if crops else planner.check(vocabulary, prompts)


def refused_crops(family: Family, vocabulary: Vocabulary) -> list[str]:
    """Return a problem for each crop, of a family that does not look for images."""
    return [
        f"{vocabulary.where(category)}: image {show(storage.redact(crop.name))}: the family {family.name} looks "
        "for names alone; OWL-ViT and OWLv2 look for crops"
        for category in vocabulary.categories
        for crop in category.crops
    ]

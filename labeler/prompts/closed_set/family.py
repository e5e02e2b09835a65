"""Detectors with labels of their own without torch: which they are, and a vocabulary as columns of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from labeler import plain_json, storage
from labeler.config import ModelConfig, PromptsConfig
from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.prompts.closed_set.kinds import KINDS, image_rule, kind_of, refuse_timm
from labeler.prompts.closed_set.labels import OPTION, LabelMap, labels_of
from labeler.prompts.family import Cost, PlanReport
from labeler.prompts.image_rule import ImageRule
from labeler.vocabulary import Vocabulary, refuse

NAME = "closed-set"


@dataclass(frozen=True)
class Column:
    """A column of the scores and the category that it counts for."""

    category_id: int
    label: str
    column: int


@dataclass(frozen=True)
class ColumnPlan:
    """The columns of the scores that are read; a `PromptPlan` of one pass, its phrases are labels.

    Attributes:
        columns: those of negatives come last.
        of: how many labels the checkpoint has.
    """

    columns: tuple[Column, ...]
    of: int
    negative_ids: frozenset[int] = frozenset()
    family: ClassVar = NAME
    passes: ClassVar = 1

    @property
    def phrase_categories(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(column.category_id for column in self.columns),)

    @cached_property
    def fingerprint(self) -> str:
        return digest_of(canonical_json(self.to_json()))

    def lines(self) -> list[str]:
        return [f"{len(self.columns):,} of the checkpoint's {self.of:,} labels, one pass of the detector per image"]

    def cost(self) -> Cost:
        return Cost("whole detector", "choice of its labels")

    def settings(self) -> dict[str, Any]:
        return {"family": NAME, "prompt_passes": 1, "labels": len(self.columns), "checkpoint_labels": self.of}

    def to_json(self) -> dict[str, Any]:
        columns = [{"category_id": c.category_id, "label": c.label, "column": c.column} for c in self.columns]
        return {"family": NAME, "negative_ids": sorted(self.negative_ids), "labels": columns, "of": self.of}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ColumnPlan:
        """Return the inverse of `to_json`. Raises Refused where the data cannot be what `to_json` wrote."""
        try:
            columns = tuple(Column(int(c["category_id"]), str(c["label"]), int(c["column"])) for c in data["labels"])
            plan = ColumnPlan(columns, int(data["of"]), frozenset(map(int, data["negative_ids"])))
            if not columns or not all(0 <= column.column < plan.of for column in columns):
                raise ValueError("columns that the checkpoint does not have")
            return plan
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"prompts.json: damaged: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class ColumnPlanner:
    """A `Planner` that finds a vocabulary's categories among one checkpoint's labels, and has a vocabulary of its own.

    Attributes:
        name: of the checkpoint's folder, for messages.
    """

    map: LabelMap
    name: str

    @property
    def digests(self) -> Mapping[str, str]:
        return {}  # the labels are in config.json, whose digest is the model's; the map is in the plan

    def check(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
        return PlanReport(self.map.problems(vocabulary), list(vocabulary.warnings))

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> ColumnPlan:
        problems = self.check(vocabulary, prompts).problems
        if problems:
            raise refuse(vocabulary.name, problems)
        columns = tuple(
            Column(category.id, label.text, label.column) for category, label in self.map.matches(vocabulary)
        )
        return ColumnPlan(columns, len(self.map.labels), vocabulary.negative_ids)

    def own_vocabulary(self) -> Vocabulary:
        """As of `Owner`."""
        return self.map.vocabulary(self.name)


@dataclass(frozen=True)
class ClosedSetFamily:
    """DETR's line and its like: one forward pass scores a fixed set of labels for a number of boxes; a `Family`.

    One family for all of them: plan, label map and options are the same, and what differs (`KINDS`) follows from
    config.json, which is in the digest of the model.
    """

    name: ClassVar = NAME
    version: ClassVar = 1
    architectures: ClassVar[Mapping[str, str]] = {kind: of.architecture for kind, of in KINDS.items()}
    network: ClassVar = "labeler.detectors.closed_set.network:ColumnNetwork"
    text_files: ClassVar[tuple[str, ...]] = ()
    options: ClassVar = frozenset({OPTION})
    score_floor: ClassVar = 0.05

    def image_rule(self, processor: Mapping[str, Any], config: Mapping[str, Any], name: str) -> ImageRule:
        kind = kind_of(config)
        refuse_timm(kind, config, name)
        labels_of(config, name)
        try:
            return image_rule(kind, processor, config, name)
        except (AttributeError, TypeError, ValueError) as error:
            raise Refused(f"checkpoint {name}: the image settings in its files are not usable: {error}") from None

    def planner(self, folder: Path, model: ModelConfig) -> ColumnPlanner:
        config = plain_json.parse(storage.read_regular(folder / "config.json"))
        return ColumnPlanner(LabelMap(labels_of(config, folder.name), model.labels), folder.name)

    def plan_from_json(self, data: Mapping[str, Any]) -> ColumnPlan:
        return ColumnPlan.from_json(data)

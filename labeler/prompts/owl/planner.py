"""From a vocabulary to the plan of an OWL checkpoint, and every problem on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from labeler.config import PromptsConfig
from labeler.errors import Refused
from labeler.prompts.clip_tokenizer import ClipTokenizer
from labeler.prompts.family import PlanReport
from labeler.prompts.owl.plan import OwlPhrase, OwlPlan
from labeler.prompts.owl.text import TEMPLATES, canonical, in_templates
from labeler.vocabulary import Category, Vocabulary, refuse
from labeler.vocabulary.reading import show


@dataclass(frozen=True)
class OwlPlanner:
    """A `Planner` that puts every phrase into every template.

    Attributes:
        max_tokens: that the text encoder reads, start and end included; a longer prompt is a problem, never cut.
    """

    family: str
    tokenizer: ClipTokenizer
    max_tokens: int

    @property
    def digests(self) -> Mapping[str, str]:
        return {"tokenizer": self.tokenizer.digest}

    def check(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> PlanReport:
        return self._spell(vocabulary, _templates(prompts))[1]

    def plan(self, vocabulary: Vocabulary, prompts: PromptsConfig) -> OwlPlan:
        templates = _templates(prompts)
        phrases, report = self._spell(vocabulary, templates)
        if report.problems:
            raise refuse(vocabulary.name, report.problems)
        return OwlPlan(self.family, tuple(phrases), templates, vocabulary.negative_ids)

    def _spell(self, vocabulary: Vocabulary, templates: tuple[str, ...]) -> tuple[list[OwlPhrase], PlanReport]:
        """Return the phrases that the model can read, each once, and what is wrong with the others."""
        phrases, report = [], PlanReport(warnings=list(vocabulary.warnings))
        owners: dict[str, tuple[Category, str]] = {}
        for category, text in _texts(vocabulary):
            me = f"{vocabulary.where(category)}: phrase {show(text)}"
            spelled = canonical(text)
            prompts = tuple(tuple(self.tokenizer.ids(prompt)) for prompt in in_templates(spelled, templates))
            problem = self._find_problem(spelled, prompts, templates)
            owner, other = owners.setdefault(spelled, (category, text))
            if problem is not None:
                report.problems.append(f"{me} {problem}")
            elif other == text and owner is category:
                phrases.append(OwlPhrase(category.id, text, prompts))
            elif owner is category:
                report.warnings.append(f"{me} reads the same as {show(other)}: used once")
            else:
                where = vocabulary.where(owner)
                report.problems.append(f"{me} reads the same as {show(other)} of {where}; change one of them")
        phrases += [
            OwlPhrase(category.id, crop.digest, (), crop.data)
            for category in vocabulary.categories
            for crop in category.crops
        ]
        return sorted(phrases, key=lambda phrase: phrase.category_id in vocabulary.negative_ids), report

    def _find_problem(
        self, spelled: str, prompts: tuple[tuple[int, ...], ...], templates: tuple[str, ...]
    ) -> str | None:
        if not spelled:
            return "has no letter and no digit; use other words"
        if any(self._ends_early(ids) for ids in prompts):
            return "is partly unknown to the tokenizer; use other words"
        longest = max(range(len(prompts)), key=lambda place: len(prompts[place]))
        if (count := len(prompts[longest])) <= self.max_tokens:
            return None
        alone = len(self.tokenizer.ids(spelled))
        cure = (
            "" if alone > self.max_tokens else ", or set prompts.templates to shorter ones (['{}'] is the name alone)"
        )
        return (
            f"is too long: {count} tokens in the template {show(templates[longest])}, the model reads "
            f"{self.max_tokens}; use fewer words{cure}"
        )

    def _ends_early(self, ids: tuple[int, ...]) -> bool:
        """Return the text encoder takes the token with the largest id for the end, which also stands for what is
        unknown.
        """
        return any(number >= self.tokenizer.end_id or number == self.tokenizer.start_id for number in ids[1:-1])


def _texts(vocabulary: Vocabulary) -> Iterator[tuple[Category, str]]:
    """Yield every phrase of words with its category."""
    for category in vocabulary.categories:
        for text in category.phrases:
            yield category, text


def _templates(prompts: PromptsConfig) -> tuple[str, ...]:
    templates = TEMPLATES if prompts.templates is None else prompts.templates
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        shown = f"; got {show(wrong[0])}" if wrong else ""
        raise Refused(f"prompts.templates: give one or more texts with {{}} once in each, where the name goes{shown}")
    return templates

"""Load a vocabulary for a checkpoint: checked with it, or its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from labeler.config import PromptsConfig
from labeler.errors import Refused
from labeler.prompts.family import Family, Owner, Planner, PlanReport, check_names
from labeler.vocabulary import FROM_MODEL, Vocabulary


def load_vocabulary(
    spec: Any, planner: Planner, prompts: PromptsConfig, *, family: Family | None = None, synonyms: bool = False
) -> Vocabulary:
    """Return the vocabulary that `spec` means, as `Vocabulary.load` takes it, or "from_model".

    Args:
        family: of the planner; None where it is known that there are no crops.

    Raises:
        Refused: with every problem of the vocabulary, and of the vocabulary with this checkpoint; and its warnings.
    """
    if spec not in (FROM_MODEL, {"name": FROM_MODEL}):
        return load_checked(spec, lambda sound: check_names(family, planner, sound, prompts), synonyms=synonyms)
    if not isinstance(planner, Owner):
        raise Refused("vocabulary from_model: the checkpoint has no labels of its own, it looks for words; name some")
    return planner.own_vocabulary()


def load_checked(spec: Any, check: Callable[[Vocabulary], PlanReport], *, synonyms: bool = False) -> Vocabulary:
    """Return what `Vocabulary.load` reads.

    Args:
        check: returns the warnings and problems of the categories that are sound so far.

    Raises:
        Refused: with every problem; and with the warnings, which nobody could ask for otherwise.
    """
    warnings: list[str] = []

    def problems(sound: Vocabulary) -> Sequence[str]:
        report = check(sound)
        warnings.extend(report.warnings)
        return report.problems

    try:
        return Vocabulary.load(spec, synonyms=synonyms, also=problems)
    except Refused as error:
        error.warnings = tuple(warnings)
        raise

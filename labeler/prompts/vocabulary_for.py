"""Load a vocabulary for a checkpoint: checked with it, or its own."""

from __future__ import annotations

from typing import Any

from labeler.config import PromptsConfig
from labeler.errors import Refused
from labeler.prompts.family import Family, Owner, Planner, find_problems
from labeler.vocabulary import FROM_MODEL, Vocabulary


def load_vocabulary(
    spec: Any, planner: Planner, prompts: PromptsConfig, *, family: Family | None = None, synonyms: bool = False
) -> Vocabulary:
    """Return the vocabulary that `spec` means, as `Vocabulary.load` takes it, or "from_model".

    Args:
        family: of the planner; None where it is known that there are no crops.

    Raises:
        Refused: with every problem of the vocabulary, and of the vocabulary with this checkpoint.
    """
    if spec not in (FROM_MODEL, {"name": FROM_MODEL}):
        return Vocabulary.load(
            spec, synonyms=synonyms, also=lambda sound: find_problems(family, planner, sound, prompts)
        )
    if not isinstance(planner, Owner):
        raise Refused("vocabulary from_model: the checkpoint has no labels of its own, it looks for words; name some")
    return planner.own_vocabulary()

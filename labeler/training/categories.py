"""The categories of other people's annotations as those of the vocabulary that is trained: the name alone decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeler.errors import did_you_mean
from labeler.truth.categories import one_name, same_name
from labeler.truth.ground_truth import refuse
from labeler.vocabulary import Category, Vocabulary

Ints = npt.NDArray[np.int64]
NONE = -1


def match_by_name(
    theirs: Sequence[Category], objects: Ints, vocabulary: Vocabulary, *, source: str, partial: bool = False
) -> tuple[Ints, list[str]]:
    """Return the vocabulary's id for each category, `NONE` for one that it lacks, and the names of those with objects.

    Ids are never compared: two files often number the same names differently, or other names alike.

    Args:
        objects: (len(theirs),) how many objects each has.
        source: what they are the categories of, for messages.
        partial: a category with objects may be missing from the vocabulary.

    Raises:
        Refused: if the vocabulary lacks one that has objects, two of them are the same one, or none is in it.
    """
    alike = same_name(theirs, vocabulary.categories)
    ids = np.array([NONE if ours is None else ours.id for ours in alike], np.int64)
    names = [category.name for category in vocabulary.categories]
    problems = one_name(theirs, alike)
    lacking = [category for category, id_, found in zip(theirs, ids, objects, strict=True) if id_ == NONE and found]
    if not partial:
        hint = "is not in the vocabulary"
        problems += [f'category {c.id} "{c.name}" {hint}{did_you_mean(c.name, names)}' for c in lacking]
    if len(theirs) and not (ids != NONE).any():
        problems = [f"none of their categories is in vocabulary {vocabulary.name}; categories are matched by name"]
    if problems:
        raise refuse(source, problems)
    return ids, [category.name for category in lacking]


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first few names for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")

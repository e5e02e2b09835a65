"""The names to look for: categories with ids and phrases, read from files of many kinds or built in."""

from labeler.vocabulary.model import (
    BUILT_IN,
    FROM_MODEL,
    Category,
    Vocabulary,
    refuse,
)

__all__ = [
    "BUILT_IN",
    "FROM_MODEL",
    "Category",
    "Vocabulary",
    "refuse",
]

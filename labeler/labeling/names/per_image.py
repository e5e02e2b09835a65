"""What says which names each image is asked for, and images with what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from labeler.labels.records import ALL_NAMES, LABELED, Row
from labeler.shards import Item


class NamesPerImage(Protocol):
    """Ready to be asked, wherever images are read."""

    def asked(self, item: Item) -> tuple[int, ...] | None:
        """Return ids of the categories that a read image is asked for, ascending; None where nothing is known of it."""


class NamesSource(Protocol):
    """Checked, and picklable; what it says of the images is loaded when it is needed."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fingerprint's fields about it."""

    @property
    def is_large(self) -> bool:
        """Return whether what is loaded is large, so that the processes of a node share it."""

    def load(self) -> NamesPerImage:
        """Return what says the names. Raises StorageError if another run cannot be read."""


def with_names(names: NamesPerImage | None, items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the images with what each is asked for. Those that cannot be read, and those that are removed, stay as
    they are.

    Args:
        names: None leaves all as they are.
    """
    if names is None:
        return tuple(items)
    return tuple(item if _is_unread(item) else replace(item, asked=names.asked(item)) for item in items)


def _is_unread(item: Item) -> bool:
    return item.removed or item.data is None or item.error is not None


def remarked(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of a job with names per image; `error` marks those that were asked for all names."""
    return [
        replace(row, error="; ".join(filter(None, (row.error, ALL_NAMES))))
        if row.status in LABELED and row.asked is None
        else row
        for row in rows
    ]

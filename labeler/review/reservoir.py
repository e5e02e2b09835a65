"""The k entries of lowest priority in each of many groups, kept from a stream in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.truth.matching import rank_in_group

Ints = npt.NDArray[np.int64]
_WAITING = 65_536  # entries taken before the worse ones are dropped


class Reservoir:
    """With random priorities a uniform sample of each group; with `-value` the greatest values of each.

    The result does not depend on the order in which entries come. Holds at most `groups * each` entries and a fixed
    number that wait to be sorted.

    Args:
        groups: how many.
        each: kept of each group.
        width: int64 numbers that an entry carries.
    """

    def __init__(self, groups: int, each: int, width: int) -> None:
        self._each = each
        self._limit = np.full(groups, np.inf)  # a later entry of the group must be below this
        self._group, self._priority = np.zeros(0, np.int64), np.zeros(0)
        self._entries = np.zeros((0, width), np.int64)
        self._waiting: list[tuple[Ints, npt.NDArray[np.float64], Ints]] = []
        self._count = 0

    def add(self, group: Any, priority: Any, entries: Any) -> None:
        """Entries (n, width) of groups (n,) with priorities (n,)."""
        group, priority = np.asarray(group, np.int64), np.asarray(priority, np.float64)
        better = priority < self._limit[group]
        if better.any():
            self._waiting.append((group[better], priority[better], np.asarray(entries, np.int64)[better]))
            self._count += int(better.sum())
            if self._count >= _WAITING:
                self._sort()

    def result(self) -> tuple[Ints, Ints]:
        """(groups (n,), entries (n, width)), by group and rising priority."""
        self._sort()
        return self._group, self._entries

    def _sort(self) -> None:
        parts = [(self._group, self._priority, self._entries), *self._waiting]
        group, priority = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        entries = np.concatenate([part[2] for part in parts])
        order = np.lexsort((*entries.T[::-1], priority, group))  # equal priorities: by the entry, whatever came first
        rank = rank_in_group(group[order])
        kept = order[rank < self._each]
        self._group, self._priority, self._entries = group[kept], priority[kept], entries[kept]
        full = order[rank == self._each - 1]
        self._limit[group[full]] = priority[full]
        self._waiting, self._count = [], 0

"""Which few of many entries a page shows: the best of each group, in bounded memory, then the groups alternately."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

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


Entry = TypeVar("Entry", bound=Hashable)


def in_turns(queues: Mapping[tuple[int, int], Sequence[Entry]], *, seed: int) -> list[Entry]:
    """All entries of queues named (kind, member): one of each kind in turn, of each kind one of each member in turn.

    Members come in a shuffled order in which each kind begins at another place: with a thousand categories and few
    images, kinds show other categories, and no category is missing because its number is high.
    """
    members = np.random.default_rng(seed).permutation(sorted({member for _, member in queues})).tolist()
    kinds = sorted({kind for kind, _ in queues})
    by_kind = []
    for place, kind in enumerate(kinds):
        first = place * len(members) // len(kinds)
        mine = [queues[kind, m] for m in members[first:] + members[:first] if (kind, m) in queues]
        longest = max(map(len, mine))
        by_kind.append([queue[turn] for turn in range(longest) for queue in mine if turn < len(queue)])
    return list(interleave([(1, entries) for entries in by_kind]))


def interleave(lists: Sequence[tuple[int, Sequence[Entry]]]) -> Iterator[Entry]:
    """Entries of weighted lists: in each turn as many of each as its weight, while it has any."""
    waiting = [(weight, iter(entries)) for weight, entries in lists]
    while waiting:
        left = []
        for weight, entries in waiting:
            taken = list(islice(entries, weight))
            yield from taken
            left += [(weight, entries)] if len(taken) == weight else []
        waiting = left

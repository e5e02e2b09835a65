"""Entries of many queues in turns, so that however few are taken, no kind and no member is left to the end."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

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

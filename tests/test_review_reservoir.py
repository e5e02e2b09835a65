from __future__ import annotations

import numpy as np

from labeler.review.reservoir import Reservoir


def test_an_empty_reservoir_is_a_value() -> None:
    groups, entries = Reservoir(3, 2, 2).result()
    assert groups.shape == (0,)
    assert entries.shape == (0, 2)


def test_the_lowest_priorities_of_each_group_stay_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    group, priority = rng.integers(0, 7, 300_000), rng.random(300_000)
    entries = np.stack([np.arange(300_000), group], 1)
    for order in (np.arange(300_000), rng.permutation(300_000)):
        reservoir = Reservoir(8, 5, 2)
        for part in np.array_split(order, 40):
            reservoir.add(group[part], priority[part], entries[part])
        groups, kept = reservoir.result()
        assert groups.tolist() == sorted([*range(7)] * 5), "the eighth group had none"
        for one in range(7):
            members = np.flatnonzero(group == one)
            assert kept[groups == one, 0].tolist() == members[np.argsort(priority[members])[:5]].tolist()

"""Numbers that come twice are found, whether they are few or wait in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labeler.shards import repeats
from labeler.shards.repeats import Repeats


@pytest.mark.parametrize("held", [10, 1000, 1 << 20])
def test_numbers_that_come_twice_are_found(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(repeats, "_HELD", held)
    rng = np.random.default_rng(0)
    numbers = rng.integers(-(2**63), 2**63 - 1, 5000)
    again = numbers[[3, 77, 4999]]
    with Repeats() as found:
        for some in np.array_split(np.concatenate([numbers, again, again[:1]]), 60):
            found.add(some)
        assert found.find() == frozenset(again.tolist())
    with Repeats() as found:
        found.add(numbers)
        assert found.find() == frozenset()


def test_the_files_are_closed_and_memory_holds_one_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(repeats, "_HELD", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Repeats() as found:
        found.add(np.arange(640))
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 64
    assert len(list(Path("/proc/self/fd").iterdir())) == before

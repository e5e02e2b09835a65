"""Unfinished starts of units, counted beside the driver: what bounds Ray's endless actor restarts."""

from __future__ import annotations

from collections import Counter

MAX_STARTS = 3  # a unit begun this often in one pass without finishing is not begun again in that pass


class Ledger:
    """Counts starts that did not finish. One Ray actor on the driver's node owns it; it dies only with the driver."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, int]] = Counter()

    def begin(self, shard_id: str, unit: int) -> bool:
        """Note a start; False when the unit has had its starts and must not be begun."""
        if self._open[shard_id, unit] >= MAX_STARTS:
            return False
        self._open[shard_id, unit] += 1
        return True

    def finish(self, shard_id: str, unit: int) -> None:
        """Forget a unit that ended, committed or with an error that was reported."""
        self._open.pop((shard_id, unit), None)

    def unfinished(self) -> list[tuple[str, int, int]]:
        """(shard id, unit, starts) of everything begun and not finished."""
        return sorted((shard, unit, starts) for (shard, unit), starts in self._open.items())

    def reset(self) -> None:
        """Forget all; between passes, when nothing is running."""
        self._open.clear()

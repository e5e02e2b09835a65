"""Which units have had their receipt: after a crash, units that were committed already may come again."""

from __future__ import annotations

from labeler.pipeline.blocks import Receipt


class SeenUnits:
    """A bit per unit: sets of numbers would take 100 times more."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def is_repeated(self, receipt: Receipt) -> bool:
        """Note a unit's receipt; return whether it had one without an error before."""
        if receipt.unit is None or receipt.error:
            return False
        seen, bit = self._seen.get(receipt.shard_id, 0), 1 << receipt.unit
        self._seen[receipt.shard_id] = seen | bit
        return bool(seen & bit)

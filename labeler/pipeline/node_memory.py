"""How full a node's memory is, and whether one process fills it: seen before Ray does, and ends another for it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from labeler.machine import memory_in_use

_RAY_THRESHOLD = 0.95  # of memory in use, where Ray begins to end tasks
_BELOW_RAY = 0.03


def _node_share() -> float:
    """A share of memory in use somewhat below Ray's own limit."""
    threshold = _RAY_THRESHOLD
    with suppress(KeyError, ValueError):
        threshold = float(os.environ["RAY_memory_usage_threshold"])  # noqa: SIM112 - Ray's spelling
    return threshold - _BELOW_RAY


@dataclass(frozen=True)
class MemoryLimits:
    """Limits to the node memory of a process. There are none on systems other than Linux.

    Attributes:
        node_share: share of the memory that all together may use.
        own_share: share of the memory that one process may hold beyond that: a neighbor's memory is not its fault.
        root: the folder with `proc` and `sys`.
    """

    node_share: float = field(default_factory=_node_share)
    own_share: float = 0.25
    root: Path = Path("/")

    def passed_by(self, process: int) -> bool:
        """Return whether memory runs out and this process, by its id, holds a good part of it."""
        own = _resident_bytes(self.root, process)
        return any(
            used > self.node_share * total and own > self.own_share * total for used, total in memory_in_use(self.root)
        )


def _resident_bytes(root: Path, process: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((root / f"proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0

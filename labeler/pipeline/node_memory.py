"""How full a node's memory is, and whether one process fills it: seen before Ray does, and ends another for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from labeler.cgroups import groups

_RAY_THRESHOLD = 0.95  # of memory in use, where Ray begins to end tasks
_BELOW_RAY = 0.03
_NO_LIMIT = 1 << 60  # bytes; version 1 of control groups writes "no limit" as a huge number
_GROUP_FILES = {  # version of control groups -> files of limit and use, and the parts of the use that are files
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _node_share() -> float:
    """A share of memory in use somewhat below Ray's own limit."""
    threshold = _RAY_THRESHOLD
    with suppress(KeyError, ValueError):
        threshold = float(os.environ["RAY_memory_usage_threshold"])  # noqa: SIM112 - Ray's spelling
    return threshold - _BELOW_RAY


@dataclass(frozen=True)
class MemoryLimits:
    """When a process has taken too much of its node's memory. Nothing is ever too much where there is no Linux.

    Attributes:
        node_share: share of the memory that all together may use.
        own_share: share of the memory that one process may hold beyond that: a neighbour's memory is not its fault.
        root: the folder with `proc` and `sys`.
    """

    node_share: float = field(default_factory=_node_share)
    own_share: float = 0.25
    root: Path = Path("/")

    def passed_by(self, process: int) -> bool:
        """Whether memory runs out and this process, by its id, holds a good part of it."""
        own = _resident_bytes(self.root, process)
        return any(
            used > self.node_share * total and own > self.own_share * total for used, total in memory_in_use(self.root)
        )


def memory_in_use(root: Path = Path("/")) -> Iterator[tuple[int, int]]:
    """(bytes used, bytes there are) of the machine, and of each control group around this process that has a limit."""
    with suppress(OSError, ValueError, KeyError):
        machine = _numbers(root / "proc/meminfo")
        total = machine["MemTotal:"] * 1024
        yield total - machine["MemAvailable:"] * 1024, total
    for version, group in groups("memory", root):
        limit, current, parts = _GROUP_FILES[version]
        with suppress(OSError, ValueError, KeyError):  # "max" is no limit
            total = int((group / limit).read_text())
            counted = _numbers(group / "memory.stat")
            cached = sum(counted[part] for part in parts)  # what was read from disk gives way to all else
            if total < _NO_LIMIT:
                yield int((group / current).read_text()) - cached, total


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name number` of a file of the kernel, in the unit that they are in."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}


def _resident_bytes(root: Path, process: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((root / f"proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0

"""How full memory is around this process, and how much of it decoded images may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from labeler.byte_budget import DECODE_BYTES
from labeler.cgroups import groups

_DECODE_SHARE = 8  # a worker decodes in at most this part of its node's memory: nodes have up to eight GPUs
_NO_LIMIT = 1 << 60  # bytes; version 1 of control groups writes "no limit" as a huge number
_GROUP_FILES = {  # version of control groups -> files of limit and use, and the parts of the use that are files
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def decode_bytes(root: Path = Path("/")) -> int:
    """Return how many bytes the images may take that one worker decodes at the same time."""
    return min([DECODE_BYTES, *(total // _DECODE_SHARE for _, total in memory_in_use(root))])


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

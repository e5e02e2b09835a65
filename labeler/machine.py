"""What containers and batch jobs leave to this process of its machine: CPUs, memory, and the groups that limit them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from labeler.byte_budget import DECODE_BYTES

_BYTES_OF_A_THREAD = 256 << 20  # decoding a photograph of 12 megapixels takes 0.1 to 0.2 GB
_DECODE_SHARE = 8  # a worker decodes in at most this part of its node's memory: nodes have up to eight GPUs
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_NO_LIMIT = 1 << 60  # bytes; version 1 of control groups writes "no limit" as a huge number
_GROUP_FILES = {  # version of control groups -> files of limit and use, and the parts of the use that are files
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def decode_bytes(root: Path = Path("/"), *, threads: int = 1) -> int:
    """Return how many bytes the images may take that one worker decodes at the same time in its threads."""
    return min(
        [max(DECODE_BYTES, threads * _BYTES_OF_A_THREAD), *(total // _DECODE_SHARE for _, total in memory_in_use(root))]
    )


def memory_in_use(root: Path = Path("/")) -> Iterator[tuple[int, int]]:
    """Yield (bytes used, bytes there are) of the machine, and of each control group around this process that has a
    limit.
    """
    with suppress(OSError, ValueError, KeyError):
        machine = _numbers(root / "proc/meminfo")
        total = machine["MemTotal:"] * 1024
        yield total - machine["MemAvailable:"] * 1024, total
    for version, group in groups("memory", root):
        limit, current, parts = _GROUP_FILES[version]
        with suppress(OSError, ValueError, KeyError):  # "max" is not a limit
            total = int((group / limit).read_text())
            counted = _numbers(group / "memory.stat")
            cached = sum(counted[part] for part in parts)  # what was read from disk gives way to all else
            if total < _NO_LIMIT:
                yield int((group / current).read_text()) - cached, total


def _numbers(path: Path) -> dict[str, int]:
    """Return the lines `name number` of a file of the kernel, in the unit that they are in."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number, *_ in lines}


def groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield (version, folder) of this process's group and of each group above it: all their limits hold at once.

    Args:
        controller: "memory", "cpu" or "pids".
        root: the folder with `proc` and `sys`.
    """
    mounted, paths = root / "sys/fs/cgroup", _own_paths(root)
    for folder in _upward(mounted / controller, paths.get(controller, "")):
        yield 1, folder
    for folder in _upward(mounted, paths.get("", "")):
        yield 2, folder


def _own_paths(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group below that controller's folder; "" for version 2."""
    paths: dict[str, str] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update((controller, path) for controller in controllers.split(","))
    return paths


def _upward(base: Path, path: str) -> Iterator[Path]:
    """Yield the group and those above it that can be seen: a container may see its own folder as the base."""
    folder = base / path.strip("/")
    if ".." in folder.parts:
        folder = base
    while folder != base:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    if base.is_dir():
        yield base


def available_cpus(root: Path = Path("/")) -> float:
    """Return the CPUs that affinity and the quotas of control groups leave to this process; may be less than 1."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(own), *_quotas(root)])


def worker_threads(cpus_per_worker: float | None, root: Path = Path("/")) -> int:
    """Return the CPU threads that one worker gets on this machine: `ray.cpus_per_worker`, or all CPUs but one."""
    cpus = available_cpus(root)
    return max(1, int(cpus - 1 if cpus_per_worker is None else min(cpus_per_worker, cpus)))


def _quotas(root: Path) -> Iterator[float]:
    for version, folder in groups("cpu", root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text().split())  # "max" is not a limit
            else:
                quota = int((folder / "cpu.cfs_quota_us").read_text())
                period = int((folder / "cpu.cfs_period_us").read_text())
            if quota > 0:  # -1 is not a limit
                yield quota / period


def die_first() -> None:
    """Ask the kernel to end this process first if memory runs out, not the driver or another process."""
    with suppress(OSError):  # no Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text("1000")


def die_with(parent: int) -> None:
    """End when the process `parent` does, whatever this one does then: an orphan would hold the GPU for nobody."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before this was asked for
        os._exit(1)

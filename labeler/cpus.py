"""How many CPUs this process may use, whatever the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from labeler.cgroups import groups


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
                quota, period = map(int, (folder / "cpu.max").read_text().split())  # "max" is no limit
            else:
                quota = int((folder / "cpu.cfs_quota_us").read_text())
                period = int((folder / "cpu.cfs_period_us").read_text())
            if quota > 0:  # -1 is no limit
                yield quota / period

"""Processes of this machine, found by how they are called."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from labeler.processes import Processes
from tests.waiting import wait_until


def ray_processes(*titles: str) -> list[int]:
    """Ray's workers whose title contains one of these."""
    return sorted(
        pid for pid, call in _calls() if call.startswith(b"ray::") and any(title.encode() in call for title in titles)
    )


def kill_all_called_with(text: str) -> None:
    """SIGKILL to all whose command line contains this."""
    for pid in pids_called_with(text):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_one_of(pool: Processes[Any]) -> None:
    """SIGKILL to one process of the pool; returns when the pool has noticed."""
    executor = pool._pool
    assert executor is not None
    os.kill(min(executor._processes), signal.SIGKILL)
    wait_until(lambda: executor._broken)


def pids_called_with(text: str) -> list[int]:
    """All others whose command line contains this."""
    return [pid for pid, call in _calls() if text.encode() in call and pid != os.getpid()]


def with_environment(text: str) -> list[int]:
    """Processes in whose environment this stands; children have it from their parents."""
    found = []
    for pid, _ in _calls():
        with suppress(OSError):
            if text.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


def _calls() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes()

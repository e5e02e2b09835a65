"""How many more processes and threads this user may start here: Ray takes hundreds, and hangs where it gets too few."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from labeler.cgroups import groups
from labeler.errors import Refused

LEAST_FREE = 300  # measured: 282 of a local Ray with one worker on two cores


def check_process_limit(root: Path = Path("/")) -> None:
    """Return if a local Ray can have its processes and threads.

    Args:
        root: the folder with `proc` and `sys`.

    Raises:
        Refused: if the user's limit or the container's leaves too few.
    """
    for free, limit in _free(root):
        if free < LEAST_FREE:
            raise Refused(
                f"only {max(0, free)} more processes and threads can be started here, and Ray needs {LEAST_FREE}; "
                f"raise {limit}"
            )


def _free(root: Path) -> Iterator[tuple[int, str]]:
    """(how many more, the limit that says so)."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() != 0 and limit != resource.RLIM_INFINITY:  # root is not held to it
        yield limit - _threads_of(os.getuid(), root), f"the user's limit of {limit} (ulimit -u)"
    for _, folder in groups("pids", root):
        with suppress(OSError, ValueError):  # "max" is no limit
            limit = int((folder / "pids.max").read_text())
            used = int((folder / "pids.current").read_text())
            yield limit - used, f"the container's limit of {limit} (pids.max in {folder})"


def _threads_of(user: int, root: Path) -> int:
    """The threads of all processes of a user: each counts as a process."""
    threads = 0
    for status in (root / "proc").glob("[0-9]*/status"):
        with suppress(OSError, ValueError, KeyError):  # it may have ended
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            threads += int(fields["Threads"]) if int(fields["Uid"].split()[0]) == user else 0
    return threads

"""What a Ray on this machine needs, checked before it starts: a folder that works, and enough processes."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from labeler.errors import Refused
from labeler.machine import groups

_MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of its path, by the operating system
LEAST_FREE_BYTES = 100 * 2**20  # for logs and what its processes leave there: a megabyte at its start, and more later
_ELSEWHERE = "set RAY_TMPDIR to a folder"


def check_ray_folder() -> Path:
    """Return the folder where a Ray that is started here keeps sockets, logs and spilled objects.

    Raises:
        Refused: if its path does not suit sockets, or it cannot be written, or its disk is nearly full.
    """
    folder = Path(get_default_ray_temp_dir())
    shown = ascii(str(folder))[1:-1]
    if not folder.is_absolute() or not str(folder).isascii():
        raise Refused(f"Ray's folder {shown} is not an absolute path in plain ASCII; {_ELSEWHERE} that is")
    too_long = len(str(folder)) + len(_longest_name()) - _MAX_SOCKET_BYTES
    if too_long > 0:
        raise Refused(
            f"Ray's folder {shown} is {too_long} characters too long for the sockets in it; {_ELSEWHERE} with a "
            "shorter path"
        )
    try:
        _try(folder)
        disk = shutil.disk_usage(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Refused(f"Ray's folder {shown} cannot be used: {why}; {_ELSEWHERE} that you can write to") from None
    if disk.free < LEAST_FREE_BYTES:
        raise Refused(
            f"the disk of Ray's folder {shown} is nearly full ({disk.free / 2**20:,.0f} MiB are free, "
            f"{LEAST_FREE_BYTES / 2**20:,.0f} are needed); make room, or {_ELSEWHERE} on another disk"
        )
    return folder


def _longest_name() -> str:
    """Return the path of Ray's longest socket below its folder."""
    return f"/session_2026-01-31_23-59-59_123456_{os.getpid()}/sockets/plasma_store"


def _try(folder: Path) -> None:
    """Make a socket and a file in the folder, as Ray will. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="t", dir=folder) as inside:
        with closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(os.path.join(inside, "s"))
        Path(inside, "f").write_bytes(bytes(4096))


# Ray hangs where it gets too few processes and threads.
LEAST_FREE_PROCESSES = 300  # measured: 282 of a local Ray with one worker on two cores


def check_process_limit(root: Path = Path("/")) -> None:
    """Return if a local Ray can have its processes and threads.

    Args:
        root: the folder with `proc` and `sys`.

    Raises:
        Refused: if the user's limit or the container's leaves too few.
    """
    for free, limit in _free(root):
        if free < LEAST_FREE_PROCESSES:
            raise Refused(
                f"only {max(0, free)} more processes and threads can be started here, and Ray needs "
                f"{LEAST_FREE_PROCESSES}; raise {limit}"
            )


def _free(root: Path) -> Iterator[tuple[int, str]]:
    """(how many more, the name of the limit)."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() != 0 and limit != resource.RLIM_INFINITY:  # root is not held to it
        yield limit - _threads_of(os.getuid(), root), f"the user's limit of {limit} (ulimit -u)"
    for _, folder in groups("pids", root):
        with suppress(OSError, ValueError):  # "max" is not a limit
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

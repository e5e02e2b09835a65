"""Ray's own folder on this machine: checked before Ray starts, which hangs for minutes where it cannot work there."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from labeler.errors import Refused

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

"""The one way to open a local file by its name for reading: it never waits, and takes nothing but regular files.

A name can lead to a pipe that nobody writes to, or to a terminal or device; a plain open or read of one never ends.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from io import BufferedReader

NOT_REGULAR = "not a regular file"
_FLAGS = os.O_NONBLOCK | os.O_NOCTTY
_HANDED_OVER = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/\d+")  # what a shell makes of `<(...)`, and `command |`


class NotRegularError(OSError):
    """The name leads to a pipe, socket, terminal or device."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENXIO, NOT_REGULAR, path)


def open_regular(path: str | os.PathLike[str], *, or_shell_pipe: bool = False) -> BufferedReader:
    """Return a regular file, open for reading bytes.

    Args:
        or_shell_pipe: also take a pipe that the shell handed over (`<(command)`, /dev/stdin); it ends with its writer.

    Raises:
        NotRegularError: if the name leads to something else.
        OSError: if it cannot be opened. ValueError: if no file can have such a name.
    """
    name = os.fspath(path)
    is_pipe = or_shell_pipe and _HANDED_OVER.fullmatch(name) is not None
    try:
        file = open(name, "rb", opener=None if is_pipe else _open_at_once)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotRegularError(name) from error
        raise
    mode = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(mode) or (is_pipe and stat.S_ISFIFO(mode))):
        file.close()
        raise NotRegularError(name)
    os.set_blocking(file.fileno(), True)
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


def read_regular(path: str | os.PathLike[str], limit: int = -1, *, or_shell_pipe: bool = False) -> bytes:
    """Return the bytes of a regular file, at most `limit` of them; raises as `open_regular`."""
    with open_regular(path, or_shell_pipe=or_shell_pipe) as file:
        return file.read(limit)

"""Who made a temporary file, as a part of its name: a process that can be looked for later."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

from labeler.digests import digest_of

PATTERN = r"[0-9a-f]{16}-\d+-\d+"  # of what `owner` returns
_DEAD = {"Z", "X", "x"}  # zombies have ended, too: nobody has asked for their exit code


def owner() -> str:
    """Return the name of this process: digest of machine and PID namespace, PID, start in clock ticks since boot."""
    return _owner(os.getpid())


def is_gone(owner: str) -> bool | None:
    """Return whether the process of that name has ended; None if it cannot be seen from here.

    A process of another machine, or of another container, cannot be seen.
    """
    machine, pid, started = owner.split("-")
    if machine != _machine():
        return None
    if started == _started(int(pid)):
        return started == "0" and not _is_running(int(pid))
    return True


@cache
def _owner(pid: int) -> str:
    return f"{_machine()}-{pid}-{_started(pid)}"


@cache
def _machine() -> str:
    """Return the digest of where PIDs mean what they mean here."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # systems without /proc have one PID namespace
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return digest_of("\n".join(facts).encode(), size=8)


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "0" if it has ended, or if there is no /proc."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
        return "0" if fields[0] in _DEAD else fields[19]  # fields 3 and 22 of proc(5)
    return "0"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True

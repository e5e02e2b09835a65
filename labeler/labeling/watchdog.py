"""End the process if its work stalls; a hung forward pass or decoder cannot be interrupted otherwise."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


class Watchdog:
    """A watchdog over the work of all threads of this process.

    A C thread of the interpreter does it (`faulthandler`), so that code which never lets go of the interpreter is
    ended as well; where every thread stood goes to stderr, and the exit code is 1.

    Args:
        timeout_s: how long nothing may move; None watches nothing.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._active = 0
        self._armed_at = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """While any thread is inside, `beat` has to be called in time."""
        with self._lock:
            self._active += 1
            self._arm()
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                if self._active:
                    self._arm()
                elif self._timeout_s is not None:
                    faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Something moved."""
        if self._timeout_s is None or time.monotonic() - self._armed_at < min(1.0, self._timeout_s / 10):
            return  # each arming starts a thread: not for every image of a fast detector
        with self._lock:
            if self._active:
                self._arm()

    def _arm(self) -> None:
        if self._timeout_s is not None:
            self._armed_at = time.monotonic()
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=_STDERR)

"""Signals that end a job: the first stops it, further ones wait until Ray is down, the third forces the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import ray

from labeler.errors import Incomplete

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FORCED = 3


class Stopping:
    """The signals received so far; its handlers stay until the block of `stopping` ends."""

    def __init__(self, *, installs: bool = True) -> None:
        self._installs = installs
        self.received = 0
        self.name = "Ctrl-C"
        self._reason: str | None = None

    def install(self) -> None:
        """Take the signals over; again after `ray.init`, which takes SIGTERM for itself."""
        if self._installs and threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has SIGHUP ignored
                    signal.signal(number, self._receive)

    def stop(self, reason: str) -> None:
        """From another thread: end the job as a signal does, and say why."""
        self._reason = reason
        os.kill(os.getpid(), signal.SIGTERM)  # nothing else wakes a thread that waits in Ray

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        if self.received == 1:
            self.name = self._reason or ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
            raise KeyboardInterrupt  # not an exception of labeler: code on the way may well catch `Exception`
        if self.received >= _FORCED:
            _say("labeler: forced to end; processes of Ray may be left")
            os._exit(Incomplete.exit_code)
        _say("labeler: stopping; a second signal ends this process at once")


@contextmanager
def stopping(*, signals: bool = True) -> Iterator[Stopping]:
    """While inside, Ctrl-C, SIGTERM and SIGHUP end the job with one line, once its Ray is down.

    A Ray that this process had before, its own or its user's, is left alone.

    Args:
        signals: if False, no handler is installed, and KeyboardInterrupt reaches the caller.

    Raises:
        Incomplete: after such a signal.
    """
    ours = not ray.is_initialized()
    if not signals:
        with _ended_with_the_job(ours):
            yield Stopping(installs=False)
        return
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if on_main_thread else {}
    state = Stopping()
    state.install()
    try:
        yield state
    except KeyboardInterrupt:
        state.received = max(1, state.received)  # raised by the handler that was there before
        if ours:
            with suppress(Exception):
                ray.shutdown()
        raise Incomplete(f"stopped by {state.name}; run the same command again to continue") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ended_with_the_job(ours: bool) -> Iterator[None]:
    """End the job's own Ray if the job ends by KeyboardInterrupt: nothing would stop its workers otherwise."""
    try:
        yield
    except KeyboardInterrupt:
        if ours:
            with suppress(Exception):
                ray.shutdown()
        raise


def _say(line: str) -> None:
    """Print in a signal handler, where a lock of the usual ways may be held."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())

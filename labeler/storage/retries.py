"""Trying again: exponential backoff with jitter, said in the log and counted."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from labeler.errors import StorageError
from labeler.storage.failures import Transient, Unreadable
from labeler.storage.redaction import redact

T = TypeVar("T")
OnTrouble = Callable[[str], None]
_TELL_AFTER = 3  # failures in a row: a second or two, which renewed credentials and a passing error do not take
logger = logging.getLogger("labeler.storage")


@dataclass(frozen=True)
class Policy:
    """Pauses are first_s, twice that, and so on up to longest_s, each times a random number in [0.5, 1].

    A server that asks for a longer pause (Retry-After) gets it, up to longest_asked_s.
    """

    attempts: int = 8  # in a row without a byte of progress: half a minute of pauses in all
    first_s: float = 0.25
    longest_s: float = 20.0
    longest_asked_s: float = 60.0

    def pause_s(self, failures: int, asked_s: float = 0.0) -> float:
        own_s = min(self.longest_s, self.first_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)
        return max(own_s, min(asked_s, self.longest_asked_s))


POLICY = Policy()


@dataclass(frozen=True)
class Traffic:
    """This process's storage traffic so far: requests for bytes, second tries of anything, bytes received."""

    requests: int = 0
    retries: int = 0
    bytes_read: int = 0


class _Meter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Traffic()
        self._told = 0

    def add(self, *, requests: int = 0, retries: int = 0, bytes_read: int = 0) -> None:
        with self._lock:
            old = self._total
            self._total = Traffic(old.requests + requests, old.retries + retries, old.bytes_read + bytes_read)

    def read(self) -> Traffic:
        return self._total

    def take_retries(self) -> int:
        """Second tries since the last call, so that those who ask in turn count each once."""
        with self._lock:
            found, self._told = self._total.retries - self._told, self._total.retries
        return found

    def give_back(self, retries: int) -> None:
        """Give back what was taken and not counted: the next caller gets it."""
        with self._lock:
            self._told -= retries


METER = _Meter()
_on_trouble: OnTrouble | None = None  # of this process


def on_trouble(call: OnTrouble | None) -> None:
    """Have this process call `call` with one line for each failure that a person can end, while it is tried again.

    Operations wait half a minute before they fail: too long to leave expired credentials unmentioned.

    Args:
        call: called from any thread; what it raises is lost. None: nothing is called.
    """
    global _on_trouble
    _on_trouble = call


def _tell(error: Transient) -> None:
    if _on_trouble is not None:
        with suppress(Exception):  # who listens must not decide whether a read succeeds
            _on_trouble(f"{error}; {error.meanwhile}")


class Patience:
    """One operation's failures in a row: pauses after each, and gives up after `POLICY.attempts`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._failures = 0

    def wait(self, error: Transient) -> None:
        """Pause before the next try.

        Raises:
            StorageError: if there were too many failures in a row; Unreadable if they are about this object alone.
        """
        self._failures += 1
        if self._failures >= POLICY.attempts:
            said = f"{redact(self._uri)}: storage failed {self._failures} times in a row ({error}); {error.advice}"
            raise (StorageError(said) if error.reason is None else Unreadable(said, error.reason)) from error
        if error.meanwhile and self._failures == _TELL_AFTER:
            _tell(error)
        pause_s = POLICY.pause_s(self._failures, error.after_s)
        logger.warning("%s: %s; trying again in %.1f s", redact(self._uri), error, pause_s)
        METER.add(retries=1)
        time.sleep(pause_s)

    def reset(self) -> None:
        """There was progress."""
        self._failures = 0


def retrying(uri: str, call: Callable[[], T]) -> T:
    """Return what `call` returns, once it does not raise Transient."""
    patience = Patience(uri)
    while True:
        try:
            return call()
        except Transient as error:
            patience.wait(error)

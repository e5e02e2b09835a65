"""Is one web address to blame, or the network? What answered since the address began to fail decides."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

_MOST = 10_000  # hosts and addresses that are remembered
_RECENT_S = 60.0  # after that a failure is a new one
BELIEVED_AFTER_S = 90.0  # less than eight tries of ten seconds and the pauses between, more than seven
ASKED_AGAIN_S = 300.0


class HostEvidence:
    """Times at which hosts last answered, and since when addresses fail. Thread-safe; one per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: OrderedDict[str, tuple[float, str]] = OrderedDict()  # host -> when and what, the latest last
        self._failing: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> first and last failure

    def answered(self, host: str, uri: str) -> None:
        """Note an answer that was not a server's failure."""
        with self._lock:
            self._answered[host] = (time.monotonic(), uri)
            self._answered.move_to_end(host)
            self._failing.pop(uri, None)
            if len(self._answered) > _MOST:
                self._answered.popitem(last=False)

    def failed(self, uri: str) -> float:
        """Note a failure; returns when this row of failures began."""
        now = time.monotonic()
        with self._lock:
            first, last = self._failing.pop(uri, (now, now))
            first = now if now - last > _RECENT_S else first
            self._failing[uri] = (first, now)
            if len(self._failing) > _MOST:
                self._failing.popitem(last=False)
        return first

    def is_alone(self, uri: str, host: str, *, as_a_host: bool) -> bool:
        """Return whether others answered since the address began to fail, so that it is not the network.

        Args:
            as_a_host: the host may be overloaded: only if other hosts answered and this one did not.
        """
        since = self.failed(uri)
        with self._lock:
            others = any(at > since for name, (at, _) in reversed(self._answered.items()) if name != host)
            own = self._answered.get(host, (0.0, ""))[0] > since
        return others and not own if as_a_host else others or own

    def other(self, host: str) -> tuple[bool, str]:
        """Return (whether another host answered within the last minute, an address that the last one
        of them answered).
        """
        with self._lock:
            at, uri = next((found for name, found in reversed(self._answered.items()) if name != host), (0.0, ""))
        return bool(uri) and time.monotonic() - at < _RECENT_S, uri


class SilentHosts:
    """Hosts that connections to time out, as where packets are dropped. Thread-safe; one for a process.

    One that was silent for as long as all tries of an operation take is believed to stay so for a while.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # host -> first and last timeout

    def timed_out(self, host: str, began: float) -> bool:
        """Note a connection that was started at a time and timed out; returns whether the host is
        believed to be dead.
        """
        now = time.monotonic()
        with self._lock:
            first, last = self._silent.pop(host, (began, now))
            first = began if began - last > ASKED_AGAIN_S + _RECENT_S else first
            self._silent[host] = (first, now)
            if len(self._silent) > _MOST:
                self._silent.popitem(last=False)
        return now - first > BELIEVED_AFTER_S

    def answered(self, host: str) -> None:
        with self._lock:
            self._silent.pop(host, None)

    def is_dead(self, host: str) -> bool:
        """Return whether it was silent for long, and too lately to ask again."""
        with self._lock:
            first, last = self._silent.get(host, (0.0, 0.0))
        return last - first > BELIEVED_AFTER_S and time.monotonic() - last < ASKED_AGAIN_S

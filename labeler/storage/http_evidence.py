"""Is one web address to blame, or the network? What answered since the address began to fail decides."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

_MOST = 10_000  # hosts and addresses that are remembered
_RECENT_S = 60.0  # after that a failure is a new one


class Evidence:
    """When hosts last answered, and since when addresses fail. Thread-safe; one for a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: OrderedDict[str, float] = OrderedDict()  # host -> when, the latest last
        self._failing: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> first and last failure

    def answered(self, host: str, uri: str) -> None:
        """Note an answer that was not a server's failure."""
        with self._lock:
            self._answered[host] = time.monotonic()
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
            others = any(at > since for name, at in reversed(self._answered.items()) if name != host)
            own = self._answered.get(host, 0.0) > since
        return others and not own if as_a_host else others or own

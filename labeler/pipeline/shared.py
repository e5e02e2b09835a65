"""Values that all read tasks need: in Ray's object store once, and loaded once by each process."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

import ray

T = TypeVar("T")
_loaded: dict[str, Any] = {}  # of this process; only the value that was asked for last
_loading = threading.Lock()  # a worker labels several units at once, and loads a value for all of them


class Shared(Generic[T]):
    """A value by reference. Pickled it is the reference, so that a hundred thousand tasks may carry it.

    Args:
        value: its numpy arrays are mapped read-only into the processes of a node, not copied.
    """

    def __init__(self, value: T) -> None:
        self._ref = ray.put(value)

    def load(self) -> T:
        """Return the value; the first call in a process waits for it."""
        key = self._ref.hex()
        with _loading:
            if key not in _loaded:
                value = ray.get(self._ref)
                _loaded.clear()
                _loaded[key] = value
            found: T = _loaded[key]
        return found

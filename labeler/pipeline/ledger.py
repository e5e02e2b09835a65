"""What must outlive a worker: unfinished starts of units, which workers came up, and what storage refuses meanwhile.

Unfinished starts bound Ray's endless actor restarts, and a job that dies with its driver each time. They are counted
beside the driver and kept in the run folder, `attempts/<session>.json`, for the sessions to come: an image that takes
the driver's machine along would otherwise be started forever, once a session.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping

from labeler import plain_json, storage
from labeler.errors import LabelerError
from labeler.runs import Run, UnitKey, layout

MAX_STARTS = 3  # a unit started this often without finishing is not started again beside others
_MOST_TROUBLES = 20  # between two looks at them
START_PATIENCE_S = 300.0  # how long a worker that cannot start waits for one that can


class Ledger:
    """Counts starts that did not finish. One Ray actor on the driver's node owns it, with a thread for each caller.

    Args:
        journal_uri: where the starts of this session are kept; None keeps none.
        earlier: unfinished starts of earlier sessions.
    """

    def __init__(self, journal_uri: str | None = None, earlier: Mapping[UnitKey, int] | None = None) -> None:
        self._journal_uri = journal_uri
        self._earlier = Counter(earlier or {})
        self._open: Counter[UnitKey] = Counter()
        self._unlabeled: set[UnitKey] = set()  # in this pass
        self._unlabeled_before: set[UnitKey] = set()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._version = self._answered = 0
        self._up: set[str] = set()
        self._down: set[str] = set()
        self._last_sign = time.monotonic()
        self._troubles: set[str] = set()
        self._closing = False

    def begin(self, shard_id: str, unit: int) -> bool | None:
        """Note a start, durably; False when the unit has had its starts and must not be started, None when none may."""
        key = (shard_id, unit)
        with self._lock:
            if self._closing:
                return None
            if self._open[key] + self._earlier[key] >= MAX_STARTS:
                return False
            self._last_sign = time.monotonic()
            self._open[key] += 1
            self._version += 1
            mine = self._version
        self._write(mine)
        return True

    def finish(self, shard_id: str, unit: int) -> None:
        """Forget a unit that ended, committed or with an error that was reported."""
        with self._lock:
            self._last_sign = time.monotonic()
            self._open.pop((shard_id, unit), None)
            self._earlier.pop((shard_id, unit), None)
            self._unlabeled.discard((shard_id, unit))

    def begin_no_more(self) -> int:
        """Let nothing be started from now on; returns how many units are still worked on."""
        with self._lock:
            self._closing = True
            return len(self._open)

    def unlabeled(self, shard_id: str, unit: int) -> None:
        """A unit ended because labeling it raised."""
        self.finish(shard_id, unit)
        with self._lock:
            self._unlabeled.add((shard_id, unit))

    def unlabeled_again(self) -> list[UnitKey]:
        """Units that labeling raised in, in this pass and in one before: twice on one worker may be the worker."""
        with self._lock:
            return sorted(self._unlabeled & self._unlabeled_before)

    def unfinished(self) -> list[tuple[str, int, int]]:
        """(shard id, unit, starts) of everything started and not finished, in this session or before."""
        with self._lock:
            return sorted((*key, starts) for key, starts in (self._open + self._earlier).items())

    def reset(self) -> None:
        """Forget all but which units labeling raised in; between passes, when nothing is running."""
        with self._lock:
            self._unlabeled_before |= self._unlabeled
            self._unlabeled.clear()
            self._open.clear()
            self._earlier.clear()
            self._up.clear()
            self._down.clear()

    def worker_is_up(self, worker: str) -> None:
        """A worker has loaded its model."""
        with self._lock:
            self._last_sign = time.monotonic()
            self._up.add(worker)

    def workers_up(self) -> int:
        """Return how many workers have loaded their model in this pass."""
        with self._lock:
            return len(self._up)

    def worker_is_down(self, worker: str) -> None:
        """A worker could not load its model."""
        with self._lock:
            if not self._down:
                self._last_sign = time.monotonic()
            self._down.add(worker)

    def others_work(self, workers: int, stall_timeout_s: float) -> bool:
        """Return whether a worker that is down should keep still, because of `workers` others are at work or may come
        up.

        If it ended instead, Ray would start it again on the same node, and after a few times in a row end the pass for
        all.
        """
        with self._lock:
            silent_s = time.monotonic() - self._last_sign
            if self._up:
                return silent_s < stall_timeout_s
            return len(self._down) < workers and silent_s < START_PATIENCE_S

    def trouble(self, what: str) -> None:
        """Note a failure of storage that a person can end, from any reader or writer."""
        with self._lock:
            if len(self._troubles) < _MOST_TROUBLES:
                self._troubles.add(what)

    def take_troubles(self) -> list[str]:
        """Return what was noted since the last call, each once."""
        with self._lock:
            found, self._troubles = sorted(self._troubles), set()
        return found

    def close(self) -> None:
        """The session ended in order: its starts are nobody's fault."""
        if self._journal_uri:
            with self._writing:
                storage.delete(self._journal_uri)

    def _write(self, version: int) -> None:
        """One write at a time; starts that came while one was under way share the next, or its failure."""
        if self._journal_uri is None:
            return
        with self._writing:
            if self._answered >= version:
                return
            with self._lock:
                at, starts = self._version, {f"{shard_id}/{unit}": n for (shard_id, unit), n in self._open.items()}
            try:
                storage.put(self._journal_uri, json.dumps(starts).encode())
            except LabelerError:  # the journal helps a later session; whether a unit is committed does not depend on it
                with self._lock:
                    at = self._version  # all who waited meanwhile: each would wait for all of storage's retries again
            self._answered = at


def read_attempts(run: Run) -> Counter[UnitKey]:
    """Unfinished starts of all earlier sessions; a unit that was committed later may be among them."""
    found: Counter[UnitKey] = Counter()
    for info in storage.list_objects(run.path(layout.ATTEMPTS_FOLDER)):
        try:
            starts = plain_json.parse(storage.read_bytes(info.uri))
            for name, count in starts.items():
                shard_id, _, unit = name.rpartition("/")
                found[shard_id, int(unit)] += int(count)
        except (ValueError, AttributeError, LabelerError):
            continue  # half a journal of a session that died, or one of a job that is ending
    return found

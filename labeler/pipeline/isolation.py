"""Label suspected images in a child process, and find those that kill it by halving.

The parent touches neither the model nor a GPU, so what it sees is sure: a death of this child, on these images. Deaths
of other processes (a lost node, a preemption, a killed driver) never reach it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray import cloudpickle

from labeler.errors import LabelerError
from labeler.labeling import StageSeconds, undetected_row
from labeler.pipeline.worker import WorkerSettings, make_labeler
from labeler.records import Row
from labeler.shards import Item

SOLO_DEATHS = 2  # an image is to blame when it killed the child this often with nothing beside it
START_LIMIT_S = (
    1800.0  # to import, read a checkpoint from slow storage and warm up; only a child that hangs takes longer
)
_KILLED_WITHIN_S = 10.0  # a process that waits for a device or a lost mount does not even die
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Died(Exception):
    """The child ended while it worked; `str()` says how."""


class Isolated:
    """A child process with a detector, started when first needed and anew after each death. Use with `with`.

    The child dies with the thread that called `label` first: that of a Ray task lasts as long as its process.

    Args:
        start_limit_s: a child that is not ready to label after so long has failed to start.
    """

    def __init__(self, settings: WorkerSettings, *, start_limit_s: float = START_LIMIT_S) -> None:
        self._settings = settings
        self._start_limit_s = start_limit_s
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self.description: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def label(self, shard_id: str, items: Sequence[Item]) -> tuple[list[Row], StageSeconds]:
        """Rows of the items.

        Raises:
            Died: the child did; the next call starts another.
            LabelerError: the child cannot start, or said why it cannot label them.
        """
        self._start()
        start = time.monotonic()
        try:
            assert self._pipe is not None
            self._pipe.send((shard_id, list(items)))
            rows, seconds, error = self._pipe.recv()
        except (EOFError, OSError):
            how, limit = self._stop(), self._settings.stall_timeout_s
            raise Died(how if time.monotonic() - start < limit else f"stood still for {limit:g} s") from None
        if error is not None:
            raise LabelerError(error)
        return rows, seconds

    def _start(self) -> None:
        for last in (False, True):
            if self._child is not None:
                return
            try:
                self._launch()
            except TimeoutError:
                self._stop(kill=True)
                how = f"not ready after {self._start_limit_s:g} s"
            except (EOFError, OSError):
                how = self._stop()
            else:
                return
            if last:
                raise LabelerError(f"a worker in a process of its own cannot start: {how}")

    def _launch(self) -> None:
        """Starts a child and hears whether it can label.

        Raises:
            TimeoutError: it says nothing for too long.
            EOFError, OSError: it died.
            LabelerError: it said why it cannot.
        """
        deadline = time.monotonic() + self._start_limit_s
        self._pipe, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "labeler.pipeline.isolation", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # what Ray has put there, too
            )
        self._hear(deadline)  # it reads now: nothing that is sent to it can get stuck
        self._pipe.send_bytes(cloudpickle.dumps(self._settings))
        self.description, error = self._hear(deadline)
        if error is not None:
            self._stop()
            raise LabelerError(error)

    def _hear(self, deadline: float) -> Any:
        """What the child says next; `deadline` is on the monotonic clock."""
        assert self._pipe is not None
        if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        return self._pipe.recv()

    def _stop(self, *, kill: bool = False) -> str:
        """Ends the child; how it had ended if it was dead already.

        Args:
            kill: at once; else it has ten seconds to end by itself.
        """
        child, self._child = self._child, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if child is None:
            return "it never ran"
        try:
            code = child.wait(timeout=0 if kill else 10)  # it ends by itself when its pipe is closed
        except subprocess.TimeoutExpired:
            child.kill()
            try:
                code = child.wait(timeout=_KILLED_WITHIN_S)
            except subprocess.TimeoutExpired:
                return "it cannot even be killed"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def label_isolated(
    shard_id: str, items: Sequence[Item], keep: Sequence[str], child: Isolated
) -> tuple[list[Row], StageSeconds]:
    """One row for each item, in item order; those that killed the child alone, twice, are `quarantined`."""
    rows: list[Row] = []
    total = StageSeconds()
    deaths: Counter[int] = Counter()
    groups = [list(items)]
    while groups:
        group = groups.pop()
        try:
            found, seconds = child.label(shard_id, group)
        except Died as death:
            if len(group) > 1:
                middle = len(group) // 2
                groups += [group[middle:], group[:middle]]
                continue
            deaths[group[0].index] += 1
            if deaths[group[0].index] < SOLO_DEATHS:
                groups.append(group)
                continue
            reason = f"it ended the process that labeled it, {SOLO_DEATHS} times with nothing beside it ({death})"
            rows.append(replace(undetected_row(shard_id, group[0], keep), status="quarantined", error=reason))
            continue
        rows += found
        total.add(seconds)
    return sorted(rows, key=lambda row: row.index), total


def serve(pipe: Connection) -> None:
    """The child: makes the detector, then labels what comes through the pipe until that is closed."""
    pipe.send(None)
    settings: WorkerSettings = cloudpickle.loads(pipe.recv_bytes())
    _die_first()
    try:
        labeler = make_labeler(settings)
    except Exception as error:
        pipe.send(({}, f"{type(error).__name__}: {error}"))
        return
    pipe.send((dict(labeler.description), None))
    while True:
        try:
            shard_id, items = pipe.recv()
        except EOFError:
            return
        try:
            rows, seconds = labeler.label(shard_id, items, settings.keep)
        except Exception as error:
            pipe.send(([], StageSeconds(), f"{type(error).__name__}: {error}"))
            continue
        pipe.send((rows, seconds, None))


def _die_first() -> None:
    """Where memory runs out, the kernel shall take this process, not the driver or a neighbour."""
    with suppress(OSError):  # no Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text("1000")


def _die_with(parent: int) -> None:
    """End when the process `parent` does, whatever this one does then: an orphan would hold the GPU for nobody."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before this was asked for
        os._exit(1)


if __name__ == "__main__":
    _die_with(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))

"""Label suspected images in a child process, and find those that kill it or raise in it by halving.

The parent does not touch the model or a GPU, so what it sees is certain: a death of this child, on these images. Deaths
of other processes (a lost node, a preemption, a killed driver) never reach it. An error says less, because a broken
machine raises it at every image: it counts where the child labels a plain image all the same.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any

from PIL import Image
from ray import cloudpickle

from labeler.errors import LabelerError
from labeler.labeling.detector import BoxScorer
from labeler.labeling.unit import UnitLabeler, undetected_row
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.labels.unit_work import UnitWork
from labeler.machine import die_first, die_with
from labeler.pipeline.node_memory import MemoryLimits
from labeler.pipeline.worker import Unlabeled, WorkerSettings, label_items, make_labeler
from labeler.shards import Item

SOLO_FAILURES = 2  # an image is to blame when the child died of it, or raised, this often with nothing beside it
START_LIMIT_S = (
    1800.0  # to import, read a checkpoint from slow storage and warm up; only a child that hangs takes longer
)
_KILLED_WITHIN_S = 10.0  # a process that waits for a device or a lost mount does not even die
_LOOK_EVERY_S = 0.2  # at memory; Ray looks four times a second
_Asked = tuple[str, list[Item], bool]  # a shard's id, its images, and whether they are detected on


class Died(Exception):
    """The child ended while it worked; `str()` says how."""


class Isolated(AbstractContextManager["Isolated"]):
    """A child process with a detector, started when first needed and again after each death. Use with `with`.

    The child dies with the thread that called `label` first: that of a Ray task lasts as long as its process.

    Args:
        start_limit_s: a child that is not ready to label after that long has failed to start.
        memory: a child that passes these limits while it labels is killed, or else Ray would end this process for it,
            which blames nobody, and repeat the task forever.
    """

    def __init__(
        self, settings: WorkerSettings, *, start_limit_s: float = START_LIMIT_S, memory: MemoryLimits | None = None
    ) -> None:
        self._settings = replace(settings, names=None)  # images come with their names, and the child has no Ray
        self._start_limit_s = start_limit_s
        self._memory = memory or MemoryLimits()
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self.description: dict[str, str] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def label(self, shard_id: str, items: Sequence[Item]) -> tuple[list[Row], UnitWork]:
        """Rows of the items.

        Raises:
            Died: the child did; the next call starts another.
            Unlabeled: it raised something unexpected, in the words of `label_items`.
            LabelerError: it cannot start, or storage or the machine failed.
        """
        return self._ask((shard_id, list(items), True))

    def describe(self, shard_id: str, item: Item) -> Row | None:
        """Return the row of an image that nothing is detected on, with its size and hash; None if that fails, too."""
        try:
            return self._ask((shard_id, [item], False))[0][0]
        except (Died, LabelerError):
            return None

    def prove(self) -> None:
        """See to it that the child labels a plain image; one that does not is replaced.

        Raises:
            LabelerError: a new one does not either, so that no image is to blame.
        """
        for last in (False, True):
            try:
                self._ask(None)
                return
            except (Died, Unlabeled) as error:
                self.renew()
                if last:
                    raise LabelerError(
                        f"isolated worker failed on a known-good image, so no image is blamed: {error}"
                    ) from None

    def renew(self) -> None:
        """End the child; the next call starts another."""
        self._stop()

    def _ask(self, what: _Asked | None) -> tuple[list[Row], UnitWork]:
        self._start_with_memory()
        start = time.monotonic()
        try:
            assert self._pipe is not None
            self._pipe.send(what)
            self._watch_memory()
            rows, work, error, perhaps_an_image = self._pipe.recv()
        except (EOFError, OSError):
            how, limit = self._stop(), self._settings.stall_timeout_s
            raise Died(how if time.monotonic() - start < limit else f"stalled for {limit:g} s") from None
        if error is not None:
            raise (Unlabeled if perhaps_an_image else LabelerError)(error)
        return rows, work

    def _start_with_memory(self) -> None:
        """A child that is over the limits before it labels says nothing about the images that it gets."""
        for last in (False, True):
            self._start()
            assert self._child is not None
            if not self._memory.passed_by(self._child.pid):
                return
            self.renew()  # it may be what earlier images left behind
            if last:
                raise LabelerError("the node's memory is full before a worker in a process of its own labels anything")

    def _watch_memory(self) -> None:
        """Until the child says something. From here and not from there: code of its own could keep a thread waiting.

        Raises:
            Died: it held too much memory and was killed.
        """
        assert self._pipe is not None
        assert self._child is not None
        while not self._pipe.poll(_LOOK_EVERY_S):
            if self._memory.passed_by(self._child.pid):
                self._stop(kill=True)
                raise Died(f"it held more than {self._memory.own_share:.0%} of its node's memory, which ran out")

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
                raise LabelerError(f"isolated worker cannot start: {how}")

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
        """Return what the child says next; `deadline` is on the monotonic clock."""
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
) -> tuple[list[Row], UnitWork]:
    """One row for each item, in item order.

    Those that killed the child alone, twice, are `quarantined`; those that raised in it alone, twice, `detect_error`.

    Raises:
        LabelerError: the child cannot start or cannot label any image, or storage or the machine failed.
    """
    rows: list[Row] = []
    total = UnitWork()
    failures: Counter[tuple[int, type[Exception]]] = Counter()
    groups = [list(items)]
    while groups:
        group = groups.pop()
        try:
            found, work = child.label(shard_id, group)
        except (Died, Unlabeled) as error:
            if isinstance(error, Unlabeled):
                child.prove()  # what was damaged by one image must not be held against the next
            if len(group) > 1:
                middle = len(group) // 2
                groups += [group[middle:], group[:middle]]
                continue
            failures[group[0].index, type(error)] += 1
            if failures[group[0].index, type(error)] < SOLO_FAILURES:
                child.renew()  # the last try is in a process that has seen no other image
                groups.append(group)
                continue
            row = child.describe(shard_id, group[0]) if isinstance(error, Unlabeled) else None
            rows.append(_crashing(row or undetected_row(shard_id, group[0], keep), error))
            continue
        rows += found
        total.add(work)
    return sorted(rows, key=lambda row: row.index), total


def _crashing(row: Row, error: Exception) -> Row:
    if isinstance(error, Unlabeled):
        return replace(row, status="detect_error", error=str(error))
    reason = f"crashed its process {SOLO_FAILURES} times when labeled alone ({error})"
    return replace(row, status="quarantined", error=reason)


def serve(pipe: Connection) -> None:
    """The child: makes the detector, then labels what comes through the pipe until that is closed."""
    pipe.send(None)
    settings: WorkerSettings = cloudpickle.loads(pipe.recv_bytes())
    # What an image does to the fast decoder is not to be held against the image: other workers may not have it.
    settings = replace(settings, labeler=replace(settings.labeler, jpeg_decoder="pillow"))
    die_first()
    try:
        labeler = make_labeler(settings)
    except Exception as error:
        pipe.send(({}, f"{type(error).__name__}: {error}"))
        return
    pipe.send((dict(labeler.description), None))
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(labeler, settings, asked))


def _answer(
    labeler: UnitLabeler, settings: WorkerSettings, asked: _Asked | None
) -> tuple[list[Row], UnitWork, str | None, bool]:
    """Rows and what they took; or an error, and whether an image may be to blame. None asks for a plain image."""
    try:
        if asked is None:
            _label_plain_image(labeler)
            return [], UnitWork(), None, False
        shard_id, items, detect = asked
        if not detect:
            return [labeler.describe(shard_id, item, settings.keep) for item in items], UnitWork(), None, False
        return *label_items(labeler, shard_id, items, settings.keep), None, False
    except LabelerError as error:
        return [], UnitWork(), str(error), isinstance(error, Unlabeled)


def _label_plain_image(labeler: UnitLabeler) -> None:
    """Try each model on an image that nothing can be wrong with.

    Raises:
        Unlabeled: that does not work either.
        LabelerError: storage or the machine failed.
    """
    png = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(png, "PNG")  # detectors enlarge it to what every image has
    box = Detections.of([[16, 16, 48, 48]], [0.5], [1])
    item = Item("plain.png", 0, "", None, None, png.getvalue())
    labelers = [labeler]
    if labeler.detector is not None and labeler.segmenter is not None:  # it may find nothing to make a mask for
        labelers.append(labeler.in_turn(detect=False))
    for each in labelers:
        takes_boxes = each.detector is None or isinstance(each.detector, BoxScorer)
        ((row,), _) = label_items(each, "", [replace(item, found=box) if takes_boxes else item], ())
        if row.status not in ("labeled", "empty"):
            raise Unlabeled(f"a plain image comes out as {row.status}: {row.error}")


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))

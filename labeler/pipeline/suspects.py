"""Suspects: units that often ended their worker or raised in it. Each is labeled in isolation, committed as always.

Three unfinished starts, or an unexpected error in two passes, make a unit suspect, but blame no image: lost nodes and
killed workers leave such starts, a broken machine raises such errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from labeler.errors import LabelerError
from labeler.pipeline.blocks import Receipt
from labeler.pipeline.cluster import Workers, last_line
from labeler.pipeline.isolation import Isolated, label_isolated
from labeler.pipeline.source import ReadSettings, ShardWork, units_of
from labeler.pipeline.worker import WorkerSettings, commit, todo_of
from labeler.runs.plan import PlannedShard
from labeler.shards import Unit


@dataclass(frozen=True)
class Suspect:
    """One unit to label in isolation."""

    planned: PlannedShard
    unit: int


def label_suspects(
    suspects: Sequence[Suspect],
    read: ReadSettings,
    worker: WorkerSettings,
    workers: Workers,
    *,
    most_in_vain: int | None = None,
) -> Iterator[Receipt]:
    """Receipts of the suspects, as they come in. A lost node only repeats the task: nothing was counted yet.

    Args:
        most_in_vain: when that many in a row could not be labeled, the rest is left as it is: where nothing works, each
            would load the model twice to find that out. None: all are tried.
    """
    task = ray.remote(**workers.options, max_retries=-1)(_label_suspect)
    ahead = len(suspects) if most_in_vain is None else max(1, 2 * workers.count)
    waiting, running, in_vain = deque(suspects), dict[Any, Suspect](), 0
    while waiting or running:
        while waiting and len(running) < ahead:
            suspect = waiting.popleft()
            running[task.remote(suspect, read, worker)] = suspect
        (done,), _ = ray.wait(list(running), num_returns=1)
        suspect = running.pop(done)
        try:
            receipt = ray.get(done)
        except Exception as error:
            receipt = Receipt("unit", suspect.planned.shard_id, suspect.unit, error=last_line(error))
        in_vain = in_vain + 1 if receipt.error else 0
        if in_vain == most_in_vain:
            waiting.clear()
        yield receipt


def _label_suspect(suspect: Suspect, read: ReadSettings, worker: WorkerSettings) -> Receipt:
    shard_id = suspect.planned.shard_id
    try:
        (whole,) = units_of(ShardWork(suspect.planned, only=frozenset({suspect.unit})), read)
        assert isinstance(whole, Unit)
        todo = todo_of(worker, whole)
        with Isolated(worker.on_this_node()) as child:
            rows, work = label_isolated(shard_id, todo.unit.items, worker.keep, child)
            return commit(worker, todo, rows, work, child.description)
    except LabelerError as error:
        return Receipt("unit", shard_id, suspect.unit, error=str(error))

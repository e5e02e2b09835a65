"""Suspects: units whose start was often left unfinished. Each is labeled alone, in isolation, and committed as always.

Three unfinished starts make a unit suspect, never guilty: lost nodes and killed workers leave them, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    suspects: Sequence[Suspect], read: ReadSettings, worker: WorkerSettings, workers: Workers
) -> Iterator[Receipt]:
    """Receipts of the suspects, as they come in. A lost node only repeats the task: nothing was counted yet."""
    task = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=-1)(_label_suspect)
    running = {task.remote(suspect, read, worker): suspect for suspect in suspects}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        suspect = running.pop(done)
        try:
            yield ray.get(done)
        except Exception as error:
            yield Receipt("unit", suspect.planned.shard_id, suspect.unit, error=last_line(error))


def _label_suspect(suspect: Suspect, read: ReadSettings, worker: WorkerSettings) -> Receipt:
    shard_id = suspect.planned.shard_id
    try:
        (whole,) = units_of(ShardWork(suspect.planned, only=frozenset({suspect.unit})), read)
        assert isinstance(whole, Unit)
        todo = todo_of(worker, whole)
        with Isolated(worker) as child:
            rows, seconds = label_isolated(shard_id, todo.unit.items, worker.keep, child)
            return commit(worker, todo, rows, seconds, child.description)
    except LabelerError as error:
        return Receipt("unit", shard_id, suspect.unit, error=str(error))

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
from labeler.pipeline.source import ReadSettings
from labeler.pipeline.worker import WorkerSettings, commit
from labeler.runs.plan import PlannedShard, with_members
from labeler.shards import Unit, read_units


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
        unit = _read(suspect, read)
        with Isolated(worker) as child:
            rows, seconds = label_isolated(shard_id, unit.items, worker.keep, child)
            return commit(worker, unit, rows, seconds, child.description)
    except LabelerError as error:
        return Receipt("unit", shard_id, suspect.unit, error=str(error))


def _read(suspect: Suspect, read: ReadSettings) -> Unit:
    """The unit's images; units before it are passed over, those behind it are not read."""
    shard = with_members(suspect.planned.shard, read.run_uri)
    for work in read_units(
        shard,
        max_images=read.max_images,
        max_bytes=read.max_bytes,
        max_image_bytes=read.max_image_bytes,
        keep=read.keep,
        image_column=read.image_column,
        skip=lambda unit: unit != suspect.unit,
    ):
        if isinstance(work, Unit) and work.unit == suspect.unit:
            return work
    raise LabelerError(f"{suspect.planned.shard.uri} has no unit {suspect.unit} any more")

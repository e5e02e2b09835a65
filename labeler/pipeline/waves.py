"""Waves: bounded sets of shards sent through one Ray Data pipeline, until nothing is left or nothing moves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from labeler.errors import Incomplete
from labeler.pipeline.blocks import Receipt, receipts_of
from labeler.pipeline.cluster import Workers, last_line
from labeler.pipeline.ledger import MAX_STARTS, Ledger
from labeler.pipeline.source import ReadSettings, UnitSource
from labeler.pipeline.suspects import Suspect, label_suspects
from labeler.pipeline.worker import LabelUnits, WorkerSettings
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import NOTHING, Progress, read_progress

CONCURRENT_UNITS = 3  # a worker fetches and commits two units while a third is in the forward
SMALL_IMAGE_BYTES = 32 * 1024  # to guess units from bytes where counts are unknown: rather too many than too few
MAX_IDLE_WAVES = 2


@dataclass(frozen=True)
class Wave:
    """What one Dataset works on."""

    work: Sequence[tuple[PlannedShard, frozenset[int]]]  # shards, each with the units to skip
    concurrent_units: int


def run_waves(
    run: Run,
    plan: Sequence[PlannedShard],
    *,
    read: ReadSettings,
    worker: WorkerSettings,
    workers: Workers,
    read_cpus: float,
    read_tasks: int | None,
    wave_units: int,
    seed: int,
    on_receipt: Callable[[Receipt], None],
) -> Progress:
    """Work the plan until every shard is finished; returns the final listing.

    Raises:
        Incomplete: two waves in a row committed nothing; the message and `reasons` name what is left and why.
    """
    ledger = _start_ledger()
    tried: Counter[str] = Counter()
    idle = 0
    progress = read_progress(run)
    while left := progress.left(plan):
        suspects = ray.get(ledger.unfinished.remote())
        ray.get(ledger.reset.remote())
        wave = _next_wave(left, progress, tried, seed, wave_units, read.max_images, careful=bool(suspects) or idle > 0)
        reasons: dict[str, str] = {}
        try:
            for receipt in _stream(wave, read, worker, workers, read_cpus, read_tasks, ledger):
                if receipt.error:
                    reasons[_name_of(receipt)] = receipt.error
                on_receipt(receipt)
        except Exception as error:  # workers that cannot start, a lost cluster: what was committed stays committed
            reasons["workers"] = last_line(error)
        for receipt in label_suspects(_suspects(left, ledger), read, worker, workers):
            if receipt.error:
                reasons[_name_of(receipt)] = receipt.error
            on_receipt(receipt)
        before, progress = progress, read_progress(run)
        idle = 0 if _moved(before, progress) else idle + 1
        if idle == MAX_IDLE_WAVES and progress.left(plan):
            raise Incomplete(_explain(progress.left(plan), reasons))
    return progress


def _start_ledger() -> Any:
    """The ledger, pinned beside the driver: a lost worker node must not take it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_concurrency=1)(Ledger).options(scheduling_strategy=here).remote()


def _suspects(left: Sequence[PlannedShard], ledger: Any) -> list[Suspect]:
    """The units that this pass gave up."""
    shards = {planned.shard_id: planned for planned in left}
    begun = ray.get(ledger.unfinished.remote())
    return [Suspect(shards[shard_id], unit) for shard_id, unit, starts in begun if starts >= MAX_STARTS]


def _next_wave(
    left: Sequence[PlannedShard],
    progress: Progress,
    tried: Counter[str],
    seed: int,
    wave_units: int,
    unit_images: int,
    *,
    careful: bool,
) -> Wave:
    """The least tried shards first, in a seeded order, so that a stopped run is close to a random sample."""
    order = list(left)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda planned: tried[planned.shard_id])  # stable: keeps the shuffle
    chosen: list[tuple[PlannedShard, frozenset[int]]] = []
    budget = wave_units
    for planned in order:
        if chosen and budget <= 0:
            break
        budget -= _guess_units(planned, unit_images)
        tried[planned.shard_id] += 1
        chosen.append((planned, progress.units.get(planned.shard_id, NOTHING)))
    return Wave(chosen, concurrent_units=1 if careful else CONCURRENT_UNITS)


def _guess_units(planned: PlannedShard, unit_images: int) -> int:
    images = planned.images
    if images is None:
        images = (planned.shard.size or 0) // SMALL_IMAGE_BYTES
    return images // unit_images + 1


def _stream(
    wave: Wave,
    read: ReadSettings,
    worker: WorkerSettings,
    workers: Workers,
    read_cpus: float,
    read_tasks: int | None,
    ledger: Any,
) -> Iterator[Receipt]:
    """Receipts of one wave as they come in."""
    dataset = ray.data.read_datasource(
        UnitSource(wave.work, read),
        override_num_blocks=len(wave.work),
        num_cpus=read_cpus,
        concurrency=read_tasks,
    ).map_batches(
        LabelUnits,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(worker, ledger),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        compute=ActorPoolStrategy(
            min_size=workers.count,
            max_size=workers.count,
            max_concurrent_calls_per_actor=wave.concurrent_units,
            enable_true_multi_threading=True,
        ),
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from receipts_of(batch)


def _moved(before: Progress, after: Progress) -> bool:
    return (after.committed_units, len(after.ends)) != (before.committed_units, len(before.ends))


def _name_of(receipt: Receipt) -> str:
    return f"shard {receipt.shard_id}" + (f" unit {receipt.unit:06d}" if receipt.unit is not None else "")


def _explain(left: Sequence[PlannedShard], reasons: dict[str, str]) -> str:
    shown = [f"{name}: {why}" for name, why in sorted(reasons.items())]
    more = f" (and {len(shown) - 5} more)" if len(shown) > 5 else ""
    why = "; ".join(shown[:5]) + more if shown else "the workers ended without a word; see the Ray logs"
    return f"{len(left)} shards are unfinished and two passes committed nothing. {why}"

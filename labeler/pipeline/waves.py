"""Waves: bounded sets of shards sent through one Ray Data pipeline, until nothing is left or nothing moves."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from labeler.errors import Incomplete
from labeler.pipeline.blocks import Receipt, receipts_of
from labeler.pipeline.cluster import Workers, last_line
from labeler.pipeline.ledger import MAX_STARTS, Ledger, read_attempts
from labeler.pipeline.next_wave import CONCURRENT_UNITS, UnitLimits, Wave, next_wave
from labeler.pipeline.source import ReadSettings, UnitSource
from labeler.pipeline.storage_trouble import hearing
from labeler.pipeline.suspects import Suspect, label_suspects
from labeler.pipeline.worker import LabelUnits, WorkerSettings
from labeler.runs import UnitKey, layout
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import Progress, read_progress

MAX_IDLE_WAVES = 2
LEAST_UNWRITTEN = 8  # units in a row that storage does not take, after all its own retries, before labeling stops
MOST_IN_VAIN = 8  # units in a row that raise in isolation, too, without an image to blame: it is the machines or model
LEDGER_THREADS = 256  # callers that may wait for one write of its journal together


class _OutputClosed(Exception):
    """Storage took none of many units in a row."""


class StoppedByCaller(BaseException):
    """A function of the caller's raised; no failure of the work, which would be tried again.

    Attributes:
        reason: what it raised.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def run_waves(
    run: Run,
    plan: Sequence[PlannedShard],
    progress: Progress,
    *,
    read: ReadSettings,
    worker: WorkerSettings,
    workers: Workers,
    read_cpus: float,
    read_tasks: int,
    wave_units: int,
    seed: int | None,
    on_receipt: Callable[[Receipt], None],
    on_trouble: Callable[[str], None],
    on_ledger: Callable[[Any], None] = lambda ledger: None,
) -> Progress:
    """Process the plan until every shard is finished; returns the final listing.

    Args:
        progress: what was listed; it may be some minutes old, because workers look before they label.
        on_receipt: what it raises is tried again, but for StoppedByCaller.
        on_trouble: called in another thread, with what storage refuses and a person can end, while it is tried again.
        on_ledger: told of the ledger before anything is started.

    Raises:
        Incomplete: two waves in a row committed nothing, or storage took none of many units in a row; the message names
            what is left and why.
    """
    ledger = _start_ledger(run, progress)
    on_ledger(ledger)
    tried: Counter[str] = Counter()
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    limits = UnitLimits(read.max_images, read.max_bytes)
    idle, careful = 0, False
    with hearing(ledger, on_trouble):
        while left := progress.left(plan):
            wave = next_wave(plan, progress, tried, seed, wave_units, limits, careful=careful)
            reasons: dict[str, str] = {}
            most_unwritten = partial(_most_unwritten, workers, ledger)
            try:
                with closing(_stream(wave, read, worker, workers, read_cpus, read_tasks, ledger)) as receipts:
                    _take(receipts, reasons, on_receipt, most_unwritten)
            except (KeyboardInterrupt, StoppedByCaller):
                _close(ledger)
                raise
            except _OutputClosed as error:  # a full disk: every unit more would be labeled for nothing
                _close(ledger)
                raise Incomplete(f"stopped: writes to the output keep failing: {error}") from None
            except Exception as error:  # workers that cannot start, a lost cluster: what was committed stays committed
                reasons["workers"] = last_line(error)
            begun, raised = ray.get([ledger.unfinished.remote(), ledger.unlabeled_again.remote()])
            killers = _suspects(left, [(shard_id, unit) for shard_id, unit, starts in begun if starts >= MAX_STARTS])
            raisers = _suspects(left, raised)
            _take(label_suspects(killers, read, worker, workers), reasons, on_receipt)
            apart = label_suspects(raisers, read, worker, workers, most_in_vain=MOST_IN_VAIN)
            _take(apart, reasons, on_receipt)
            ray.get(ledger.reset.remote())
            before, progress = progress, read_progress(run, len(plan))
            idle = 0 if progress.commits > before.commits else idle + 1
            careful = bool(begun) or idle > 0
            if idle == MAX_IDLE_WAVES and progress.left(plan):
                raise Incomplete(_explain(progress.left(plan), reasons))
    _close(ledger)
    return progress


def _take(
    receipts: Iterable[Receipt],
    reasons: dict[str, str],
    on_receipt: Callable[[Receipt], None],
    most_unwritten: Callable[[], int] | None = None,
) -> None:
    """Hand all receipts on, and note what their errors say.

    Args:
        most_unwritten: how many units in a row may be labeled and not written; None: any number.

    Raises:
        _OutputClosed: that many units in a row were labeled and not written.
    """
    unwritten = 0
    for receipt in receipts:
        if receipt.error:
            reasons[_name_of(receipt)] = receipt.error
        on_receipt(receipt)
        if receipt.unwritten:
            unwritten += 1
            if most_unwritten and unwritten >= LEAST_UNWRITTEN and unwritten >= most_unwritten():
                raise _OutputClosed(receipt.error)
        elif receipt.kind == "unit" and not receipt.error:
            unwritten = 0


def _most_unwritten(workers: Workers, ledger: Any) -> int:
    """Twice what is in flight on as many workers as there are by now."""
    up: int = max(workers.count, ray.get(ledger.workers_up.remote()))
    return max(LEAST_UNWRITTEN, 2 * CONCURRENT_UNITS * up)


def _start_ledger(run: Run, progress: Progress) -> Any:
    """The ledger, pinned beside the driver: a lost worker node must not take it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    earlier = {key: starts for key, starts in read_attempts(run).items() if not progress.has(*key)}
    journal = run.path(layout.attempts_file(uuid.uuid4().hex))
    actor = ray.remote(num_cpus=0, max_concurrency=LEDGER_THREADS, max_restarts=-1, max_task_retries=-1)(Ledger)
    return actor.options(scheduling_strategy=here).remote(journal, earlier)


def _close(ledger: Any) -> None:
    with suppress(Exception):  # a journal that stays only makes a later session more careful
        ray.get(ledger.close.remote(), timeout=2)


def _suspects(left: Sequence[PlannedShard], units: Iterable[UnitKey]) -> list[Suspect]:
    """The units that this pass gave up, of shards that are not finished."""
    shards = {planned.shard_id: planned for planned in left}
    return [Suspect(shards[shard_id], unit) for shard_id, unit in units if shard_id in shards]


def _stream(
    wave: Wave,
    read: ReadSettings,
    worker: WorkerSettings,
    workers: Workers,
    read_cpus: float,
    read_tasks: int,
    ledger: Any,
) -> Generator[Receipt, None, None]:
    """Receipts of one wave as they come in."""
    dataset = ray.data.read_datasource(
        UnitSource(wave.work, read, ledger),
        override_num_blocks=len(wave.work),
        num_cpus=read_cpus,
        **workers.read_place.options,
        concurrency=min(read_tasks, len(wave.work)),
    ).map_batches(
        LabelUnits,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(worker, ledger, workers.count),
        compute=workers.pool(wave.concurrent_units),
        **workers.options,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from receipts_of(batch)


def _name_of(receipt: Receipt) -> str:
    return f"shard {receipt.shard_id}" + (f" unit {receipt.unit:06d}" if receipt.unit is not None else "")


def _explain(left: Sequence[PlannedShard], reasons: dict[str, str]) -> str:
    shown = [f"{name}: {why}" for name, why in sorted(reasons.items())]
    more = f" (and {len(shown) - 5} more)" if len(shown) > 5 else ""
    why = "; ".join(shown[:5]) + more if shown else "workers exited without an error; see the Ray logs"
    return f"{len(left)} shards are unfinished and two waves made no progress: {why}"

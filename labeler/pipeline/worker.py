"""The detecting actor: labels a unit, commits it with one put-if-absent, and answers with a receipt."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pyarrow as pa
import ray

from labeler import storage
from labeler.errors import LabelerError, StorageError
from labeler.labeling.names.per_image import NamesPerImage, remarked, with_names
from labeler.labeling.recipe import LabelerRecipe
from labeler.labeling.unit import UnitLabeler
from labeler.labeling.watchdog import Watchdog
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES, Row, complete_table, table_to_parquet
from labeler.labels.unit_work import UnitWork
from labeler.pipeline.blocks import Receipt, end_of, reading_of, receipt_block, unit_of
from labeler.pipeline.cluster import Workers
from labeler.pipeline.gpus import require_cuda, share_gpu
from labeler.pipeline.nodes import drains_here, threads_here
from labeler.pipeline.redo import Redo, Todo
from labeler.pipeline.shared import Shared
from labeler.pipeline.storage_trouble import tell
from labeler.runs import layout, read_unit_file
from labeler.runs.sums import sums_of
from labeler.runs.timeline import committed_at, stamp
from labeler.shards import Item, ShardEnd, Unit, skipped

OFTEN_BEGUN = "was started several times and never finished; it will be retried in isolation after this wave"
_LEAVING_S = 0.2
_STILL_S = 2.0  # how often a worker that cannot start asks whether others work
CUDA_LOST = ("device-side assert", "illegal memory access", "unspecified launch failure", "CUDA error")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_MAX_REASON = 300  # characters


class Unlabeled(LabelerError):
    """Labeling raised something that storage and the machine are not known for: an image may be to blame."""


@dataclass(frozen=True)
class WorkerSettings:
    """Plain values an actor needs to label units of a run.

    Attributes:
        labeler: makes what labels, in the actor; without a detector where detections are kept, see `Redo`.
        metadata: goes into every unit file, beside what the detector says of itself.
        columns: the optional ones of the run.
        names: which names each image is asked for; None for all.
        redo: of a derived run: which rows are redone.
        stall_timeout_s: a process that does not decode or detect anything for that long ends itself.
        needs_cuda: GPUs are reserved for its models: one whose torch cannot use them does not start.
        workers: what each has reserved; None: its threads are those of `labeler`.
    """

    run_uri: str
    labeler: LabelerRecipe
    metadata: Mapping[str, str]
    keep: tuple[str, ...]
    max_detections: int
    single_writer: bool = False
    columns: tuple[str, ...] = ()
    names: NamesPerImage | Shared[NamesPerImage] | None = None
    redo: Redo | None = None
    stall_timeout_s: float = 900.0
    needs_cuda: bool = False
    workers: Workers | None = None

    def on_this_node(self) -> WorkerSettings:
        """In a worker of the cluster: the same with the CPU threads that this node has for it."""
        if self.workers is None:
            return self
        threads = self.workers.threads or threads_here(self.workers.gpus, self.workers.cpus)
        return replace(self, labeler=self.labeler.with_threads(threads))


class _NodeDrains(Exception):
    """The node of this worker is about to be taken away."""


def _stay_if_node_stays() -> None:
    if drains_here():
        raise _NodeDrains


class LabelUnits:
    """A stage of the pipeline: `__init__` loads once a worker, `__call__` turns work into receipts."""

    def __init__(self, settings: WorkerSettings, ledger: Any, workers: int) -> None:
        self._settings = settings = settings.on_this_node()
        self._ledger = ledger
        self._at_work, self._counting = 0, threading.Lock()
        tell(ledger)
        me = ray.get_runtime_context().get_actor_id()
        try:
            self._labeler = make_labeler(settings)
            self._labeler.on_first = _stay_if_node_stays
        except Exception:
            ray.get(ledger.worker_is_down.remote(me))
            while ray.get(ledger.others_work.remote(workers, settings.stall_timeout_s)):
                time.sleep(_STILL_S)
            raise
        ray.get(ledger.worker_is_up.remote(me))

    def __call__(self, block: pa.Table) -> pa.Table:
        assert block.num_rows == 1, "one row is one block is one call; see cluster.configure_ray_data"
        kind, shard_id = block["kind"][0].as_py(), block["shard_id"][0].as_py()
        if kind == "error":
            return receipt_block(Receipt("error", shard_id, error=block["error"][0].as_py()))
        if kind == "end":
            return receipt_block(self._end(end_of(block)))
        return receipt_block(self._unit(block))

    def _end(self, end: ShardEnd) -> Receipt:
        """Put the shard's end marker, whether or not all of its units are committed yet."""
        marker = layout.end_marker(end.shard_id, end.units, end.images)
        target, body = storage.join(self._settings.run_uri, marker), skipped.to_bytes(end.skipped)
        try:
            written = storage.put_if_absent(target, body, single_writer=self._settings.single_writer)
        except LabelerError as error:
            return Receipt("end", end.shard_id, error=str(error))
        return Receipt("end", end.shard_id, shard_images=end.images, written=written)

    def _unit(self, block: pa.Table) -> Receipt:
        shard_id, number = block["shard_id"][0].as_py(), block["unit"][0].as_py()
        if drains_here():
            self._leave()
        if (committed := self._committed(shard_id, number)) is not None:
            ray.get(self._ledger.finish.remote(shard_id, number))
            return committed
        while (begun := ray.get(self._ledger.begin.remote(shard_id, number))) is None:
            time.sleep(_STILL_S)  # the job is about to end
        if not begun:
            return Receipt("unit", shard_id, number, error=OFTEN_BEGUN)
        try:
            with self._working():
                return self._begun(block, shard_id, number)
        except _NodeDrains:
            ray.get(self._ledger.finish.remote(shard_id, number))
            self._leave()

    def _begun(self, block: pa.Table, shard_id: str, number: int) -> Receipt:
        """Label a unit whose start is noted, and note its end."""
        try:
            receipt = self._label_and_commit(unit_of(block), reading_of(block))
        except _NodeDrains:
            raise
        except Unlabeled as error:
            ray.get(self._ledger.unlabeled.remote(shard_id, number))
            return Receipt("unit", shard_id, number, error=str(error))
        except LabelerError as error:
            receipt = Receipt("unit", shard_id, number, error=str(error))
        except Exception as error:
            receipt = Receipt("unit", shard_id, number, error=storage.redact(f"{type(error).__name__}: {error}"))
        ray.get(self._ledger.finish.remote(shard_id, number))
        return receipt

    @contextmanager
    def _working(self) -> Iterator[None]:
        """While inside, a unit is at work here."""
        with self._counting:
            self._at_work += 1
        try:
            yield
        finally:
            with self._counting:
                self._at_work -= 1

    def _leave(self) -> NoReturn:
        """End this process once no unit is at work: Ray starts the worker elsewhere, and repeats there what waits."""
        while self._at_work:
            time.sleep(_LEAVING_S)
        os._exit(1)

    def _committed(self, shard_id: str, number: int) -> Receipt | None:
        """The receipt of a unit that another job, or a worker that was lost, has committed meanwhile."""
        uri = storage.join(self._settings.run_uri, layout.unit_file(shard_id, number))
        try:
            if storage.head(uri) is None:
                return None
            table = read_unit_file(uri, ("status", BOXES))
        except LabelerError:
            return None  # label it: put-if-absent decides
        return Receipt(
            "unit",
            shard_id,
            number,
            counts=dict(Counter(table["status"].to_pylist())),
            detections=int(DetectionsColumn(table).lengths.sum()),
            work=UnitWork.from_metadata(table.schema.metadata),
            committed_at=committed_at(table.schema.metadata),
        )

    def _label_and_commit(self, unit: Unit, reading: UnitWork) -> Receipt:
        todo = todo_of(self._settings, unit)
        rows, work = label_items(self._labeler, unit.shard_id, todo.unit.items, self._settings.keep)
        work.add(reading)
        try:
            return commit(self._settings, todo, rows, work, self._labeler.description)
        except StorageError as error:
            return Receipt("unit", unit.shard_id, unit.unit, error=str(error), unwritten=True)


def make_labeler(settings: WorkerSettings) -> UnitLabeler:
    """Load the models and what works around them, in this process."""
    if settings.needs_cuda:
        require_cuda()
        share_gpu(settings.workers.gpus if settings.workers else 1.0)
    return settings.labeler(Watchdog(settings.stall_timeout_s))


def label_items(
    labeler: UnitLabeler, shard_id: str, items: Sequence[Item], keep: Sequence[str]
) -> tuple[list[Row], UnitWork]:
    """One row for each item. A process whose CUDA context is lost ends here: that does not recover.

    Raises:
        Unlabeled: an image may be to blame; the message is one line, the same each time.
        LabelerError: storage, the network or the operating system failed.
    """
    try:
        return labeler.label(shard_id, items, keep)
    except (StorageError, _NodeDrains):
        raise
    except Exception as error:
        if any(sign in str(error) for sign in CUDA_LOST) and "out of memory" not in str(error):
            os._exit(1)  # Ray starts the actor again and repeats the unit
        kind = LabelerError if _is_of_the_machine(error) else Unlabeled
        raise kind(_reason_of(error)) from error


def _is_of_the_machine(error: Exception) -> bool:
    """Return whether it is a system call's answer (a full disk, too many open files): decoders' OSErrors have no
    number.
    """
    return isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno is not None)


def _reason_of(error: Exception) -> str:
    """An unexpected error as one line that is the same each time: its type, and the first line of what it says."""
    kind = type(error).__name__
    said = next(iter(str(error).strip().splitlines()), "")
    if kind == "OutOfMemoryError":
        said = said.partition(" GPU ")[0]  # the rest of the message is about the memory that other processes hold
    said = storage.redact(_ADDRESS.sub("0x...", said))
    return f"{kind}: {said}"[:_MAX_REASON] if said else kind


def todo_of(settings: WorkerSettings, unit: Unit) -> Todo:
    """Return what of a unit is to be labeled: all of it, but for derived runs."""
    todo = Todo(unit) if settings.redo is None else settings.redo.of(unit, settings.keep)
    names = settings.names.load() if isinstance(settings.names, Shared) else settings.names
    return replace(todo, unit=replace(todo.unit, items=with_names(names, todo.unit.items)))


def commit(
    settings: WorkerSettings, todo: Todo, rows: list[Row], work: UnitWork, description: Mapping[str, str]
) -> Receipt:
    """Write a unit's rows with one put-if-absent.

    Args:
        rows: of what was to be labeled.
        work: what they took; goes into the file's metadata with the retries of this process.
        description: of the detector that labeled them; goes into the file's metadata.

    Raises:
        LabelerError: storage fails.
    """
    start = time.perf_counter()
    unit, rows = todo.unit, todo.settle(rows if settings.names is None else remarked(rows))
    table = complete_table(rows, settings.keep, todo.others, settings.columns)
    retries, now = storage.take_retries(), time.time()
    work = replace(work, retries=work.retries + retries)
    metadata = {**settings.metadata, **description, **work.to_metadata(), **stamp(now)}
    data = table_to_parquet(table, metadata)
    target = storage.join(settings.run_uri, layout.unit_file(unit.shard_id, unit.unit))
    try:
        written = storage.put_if_absent(target, data, single_writer=settings.single_writer)
    except LabelerError:
        storage.give_back_retries(retries)
        raise
    took = time.perf_counter() - start
    sums = replace(sums_of(table, settings.max_detections), work=work, committed_at=round(now, 3))
    return replace(
        _receipt(unit, rows, settings.max_detections),
        written=written,
        engine=_in_words(description),
        label_bytes=len(data),
        write_s=took,
        work=work,
        committed_at=now,
        sums=sums.stored() if written and sums.in_order else None,
    )


def _in_words(description: Mapping[str, str]) -> str:
    """E.g. "fast, float32 on cpu; against transformers: 100.0% of 900 detections equal, ..."."""
    if "engine" not in description:
        return ""
    words = description["engine"]
    if "device" in description:
        words += f", {description.get('dtype', '')} on {description['device']}"
    if "segmenter" in description:
        words += f", masks by {description['segmenter']} in {description.get('segmenter_dtype', '')}"
    if "memory" in description:
        words += f", memory {description['memory']}"
    if "pairs" in description:
        words += f", pairs {description['pairs']}"
    if "cuda_graphs" in description:
        words += f", CUDA graphs {description['cuda_graphs']}"
    check = description.get("engine_check")
    return f"{words}; against transformers' own forward pass: {check}" if check else words


def _receipt(unit: Unit, rows: list[Row], max_detections: int) -> Receipt:
    return Receipt(
        "unit",
        unit.shard_id,
        unit.unit,
        counts=dict(Counter(row.status for row in rows)),
        detections=sum(len(row.detections) for row in rows),
        masks=sum(row.detections.count_masks() for row in rows),
        at_cap=sum(len(row.detections) == max_detections for row in rows) if max_detections else 0,
    )

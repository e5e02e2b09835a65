"""The Ray Data source: one read task a shard, one row and one block a unit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from labeler import storage
from labeler.errors import LabelerError
from labeler.pipeline.blocks import WORK, error_block, work_block
from labeler.pipeline.shared import Shared
from labeler.pipeline.storage_trouble import tell
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.plan import PlannedShard, file_name_prefix, with_members
from labeler.shards import ShardEnd, Unit, read_units


@dataclass(frozen=True)
class ShardWork:
    """A shard, and which of its units to read: all but those `done`, or no others than `only`."""

    planned: PlannedShard
    done: frozenset[int] = frozenset()
    only: frozenset[int] | None = None

    def skips(self, unit: int) -> bool:
        return unit in self.done if self.only is None else unit not in self.only


@dataclass(frozen=True)
class ReadSettings:
    """Settings for cutting shards into units; part of the fingerprint, equal for the life of a run.

    Attributes:
        plan_uri: of the run that has the plan, and beside it the members of groups of image files.
        excluded: images of which only the place is handed on; may grow between sessions. Shared on Ray: a million
            names would be in each of a hundred thousand read tasks.
        s3: how buckets are read; not part of the fingerprint.
    """

    plan_uri: str
    max_images: int
    max_bytes: int
    max_image_bytes: int
    keep: tuple[str, ...]
    image_column: str | None
    excluded: Excluded | Shared[Excluded] = field(default_factory=Excluded)
    s3: storage.S3Rules = storage.NO_S3_RULES


def units_of(work: ShardWork, settings: ReadSettings) -> Iterator[Unit | ShardEnd]:
    """The units to read, in order; what is behind the last of them is not read, and only a whole shard has an end.

    Raises:
        LabelerError: storage does not answer, or the shard is not as it was planned.
    """
    settings.s3.apply()
    excluded = settings.excluded.load() if isinstance(settings.excluded, Shared) else settings.excluded
    missing, prefix = set(work.only or ()), file_name_prefix(work.planned)
    for read in read_units(
        with_members(work.planned.shard, settings.plan_uri),
        max_images=settings.max_images,
        max_bytes=settings.max_bytes,
        max_image_bytes=settings.max_image_bytes,
        keep=settings.keep,
        image_column=settings.image_column,
        skip=work.skips,
    ):
        if work.only is not None and isinstance(read, Unit):
            missing.discard(read.unit)
        if work.only is None or isinstance(read, Unit):
            yield excluded.without(read, prefix) if isinstance(read, Unit) else read
        if work.only is not None and not missing:
            return
    if missing:
        raise LabelerError(f"{work.planned.shard.uri} has no unit {min(missing)} any more")


class UnitSource(Datasource):  # type: ignore[misc]  # ray is untyped
    """Streams the units of shards, except those already committed.

    The units to skip are frozen into each read task: Ray replays a generator by output index after a lost node, so a
    reader must yield the same rows each time, and therefore must not list what is committed meanwhile.

    Args:
        ledger: the actor that is told of trouble with storage; None: nobody is.
    """

    def __init__(self, work: Sequence[ShardWork], settings: ReadSettings, ledger: Any = None) -> None:
        super().__init__()
        self._work = list(work)
        self._settings = settings
        self._ledger = ledger

    def get_name(self) -> str:
        return "Units"

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(work.planned.shard.size or 0 for work in self._work)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                _ShardReader(work, self._settings, self._ledger),
                BlockMetadata(num_rows=None, size_bytes=work.planned.shard.size, input_files=None, exec_stats=None),
                schema=WORK,
            )
            for work in self._work
        ]


@dataclass(frozen=True)
class _ShardReader:
    work: ShardWork
    settings: ReadSettings
    ledger: Any

    def __call__(self) -> Iterator[pa.Table]:
        """Blocks of one shard; a failure is a row too, so that one bad shard never stops the others."""
        shard_id = self.work.planned.shard_id
        tell(self.ledger)
        try:
            start = time.perf_counter()
            for read in units_of(self.work, self.settings):
                yield work_block(read, read_s=time.perf_counter() - start, retries=storage.take_retries())
                start = time.perf_counter()
        except LabelerError as error:
            yield error_block(shard_id, str(error))
        except Exception as error:
            yield error_block(shard_id, f"{type(error).__name__}: {error}")

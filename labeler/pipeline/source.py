"""The Ray Data source: one read task a shard, one row and one block a unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from labeler.errors import LabelerError
from labeler.pipeline.blocks import WORK, error_block, work_block
from labeler.runs.plan import PlannedShard, with_members
from labeler.shards import read_units


@dataclass(frozen=True)
class ReadSettings:
    """How shards are cut into units; part of the fingerprint, equal for the life of a run."""

    run_uri: str
    max_images: int
    max_bytes: int
    max_image_bytes: int
    keep: tuple[str, ...]
    image_column: str | None


class UnitSource(Datasource):  # type: ignore[misc]  # ray is untyped
    """Streams the units of shards, except those already committed.

    The units to skip are frozen into each read task: Ray replays a generator by output index after a lost node, so a
    reader must yield the same rows each time, and therefore must not list what is committed meanwhile.
    """

    def __init__(self, work: Sequence[tuple[PlannedShard, frozenset[int]]], settings: ReadSettings) -> None:
        super().__init__()
        self._work = list(work)
        self._settings = settings

    def get_name(self) -> str:
        return "Units"

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(planned.shard.size or 0 for planned, _ in self._work)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                _Reader(planned, skip, self._settings),
                BlockMetadata(num_rows=None, size_bytes=planned.shard.size, input_files=None, exec_stats=None),
                schema=WORK,
            )
            for planned, skip in self._work
        ]


@dataclass(frozen=True)
class _Reader:
    planned: PlannedShard
    skip: frozenset[int]
    settings: ReadSettings

    def __call__(self) -> Iterator[pa.Table]:
        """Blocks of one shard; a failure is a row too, so that one bad shard never stops the others."""
        settings = self.settings
        try:
            shard = with_members(self.planned.shard, settings.run_uri)
            for work in read_units(
                shard,
                max_images=settings.max_images,
                max_bytes=settings.max_bytes,
                max_image_bytes=settings.max_image_bytes,
                keep=settings.keep,
                image_column=settings.image_column,
                skip=self.skip.__contains__,
            ):
                yield work_block(work)
        except LabelerError as error:
            yield error_block(self.planned.shard_id, str(error))
        except Exception as error:
            yield error_block(self.planned.shard_id, f"{type(error).__name__}: {error}")

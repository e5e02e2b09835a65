"""receipts/<job>/<n>.parquet: what each unit that a job wrote adds to the report, so that it need not be read again.

A hint and never the truth: the listing says what is committed. A receipt counts only for a unit file of the size that
was written, and only while the run's list of excluded images is the one that it was labeled under. The rows of all
other units are read. Deleting the folder changes no figure.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labeler import storage
from labeler.ahead import Fetch, in_order
from labeler.digests import digest_of
from labeler.errors import StorageError
from labeler.parquet_bytes import open_parquet, read_columns
from labeler.runs import layout
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.manifest import Run
from labeler.runs.progress import NOTHING, Progress
from labeler.runs.sums import SUMS, RunSums

log = logging.getLogger(__name__)
UNITS_PER_FILE = 2048
SECONDS_PER_FILE = 60.0  # a driver that is killed leaves about that much for the report to read
_EXCLUDED = b"excluded"  # metadata: digest of the list under which the units were labeled
_SCHEMA = pa.schema(
    [
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),  # of the unit file, bytes
        pa.field("sums", SUMS, nullable=False),
    ]
)
Keys = npt.NDArray[np.int64]  # shard number * 2^32 + unit


class ReceiptLog:
    """Collects the receipts of one job and writes them now and then; storage that fails ends the log, not the job.

    Args:
        excluded: the images that the job does not label.
    """

    def __init__(self, run: Run, excluded: Excluded) -> None:
        self._run = run
        self._schema = _SCHEMA.with_metadata({_EXCLUDED: digest_of(excluded.to_bytes())})
        self._job, self._number = uuid.uuid4().hex, 0
        self._rows: list[Mapping[str, object]] = []
        self._since = time.monotonic()
        self._failed = False

    def add(self, shard_id: str, unit: int, size: int, sums: Mapping[str, object]) -> None:
        """Take a unit that this job has written: `size` bytes, with these values of SUMS."""
        self._rows.append({"shard_id": shard_id, "unit": unit, "size": size, "sums": sums})
        if len(self._rows) >= UNITS_PER_FILE or time.monotonic() - self._since > SECONDS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        rows, self._rows, self._since = self._rows, [], time.monotonic()
        if not rows or self._failed:
            return
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), sink, compression="zstd")
        target = self._run.path(layout.receipts_file(self._job, self._number))
        try:
            storage.put(target, bytes(sink.getvalue()))
        except StorageError as error:
            self._failed = True
            log.warning("receipts are not kept, so that the report reads these units again: %s", error)
        self._number += 1


def take_receipts(run: Run, progress: Progress, excluded: Excluded, totals: RunSums) -> Progress:
    """Add to `totals` the units whose receipts count; return the progress that has only the other units.

    For a unit file that a derived run takes from a run below, the receipt is there; runs below that have none of the
    units are not listed. A file that is damaged, or of a later version, is skipped.
    """
    wanted, cap = digest_of(excluded.to_bytes()), _cap(run)
    left, owner = progress, run
    for place in range(len(progress.folders)):
        if _cap(owner) == cap:
            left = _take(owner, FolderFiles(left, place), wanted, totals)
        if not left.units or owner.parent is None or owner.manifest.whole:
            break  # the folders below have nothing that is still to be added up
        owner = owner.parent
    return left


def _cap(run: Run) -> object:
    """The number of detections that a receipt's `at_cap` counts by."""
    return run.manifest.config["detect"]["max_detections"]


@dataclass(frozen=True)
class FolderFiles:
    """Unit files in one of the folders of a run, without those that a folder before it has, too.

    Attributes:
        place: of the folder.
    """

    progress: Progress
    place: int

    def size(self, shard_id: str, unit: int) -> int | None:
        """Bytes of a file that is still to be added up; None for others."""
        above = self.progress.folders[: self.place]
        if unit not in self.progress.units.get(shard_id, NOTHING):
            return None
        if any(unit in units.get(shard_id, NOTHING) for _, units in above):
            return None
        return self.progress.sizes[self.place].get(shard_id, {}).get(unit)


def _take(owner: Run, listed: FolderFiles, excluded: str, totals: RunSums) -> Progress:
    """As `take_receipts`, for the receipts in one folder."""
    files = [info.uri for info in storage.list_objects(owner.path(layout.RECEIPTS_FOLDER))]
    if not files:
        return listed.progress
    keys = [_keys_of(table) for table in _tables(files, excluded, ("shard_id", "unit"))]
    found, counts = np.unique(np.concatenate([np.empty(0, np.int64), *keys]), return_counts=True)
    once = found[counts == 1]  # a unit that was deleted and labeled again has two: it is read
    taken: set[int] = set()
    for table in _tables(files, excluded, _SCHEMA.names):
        mine = _keys_of(table)
        sizes = [listed.size(shard_id, unit) for shard_id, unit in _places(mine)]
        same = [size == kept for size, kept in zip(sizes, table["size"].to_pylist(), strict=True)]
        fits = np.isin(mine, once) & np.array(same, np.bool_)
        if fits.any():
            chosen = table.filter(pa.array(fits)).combine_chunks()
            totals.add_stored(*(chosen[name].chunk(0) for name in ("shard_id", "unit", "sums")))
            taken.update(mine[fits].tolist())
    return _without(listed.progress, taken)


def _without(progress: Progress, taken: set[int]) -> Progress:
    left = {}
    for shard_id, units in progress.units.items():
        start = int(shard_id) << 32
        if some := frozenset(unit for unit in units if start + unit not in taken):
            left[shard_id] = some
    return replace(progress, units=left)


def _tables(files: Sequence[str], excluded: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    jobs: Iterator[Fetch[pa.Table | None] | pa.Table | None] = (
        Fetch(1 << 20, partial(_read, uri, excluded, columns)) for uri in files
    )
    return (table for table in in_order(jobs) if table is not None and len(table))


def _read(uri: str, excluded: str, columns: Sequence[str]) -> pa.Table | None:
    with suppress(StorageError, pa.ArrowException, OSError, ValueError):
        file = open_parquet(storage.read_bytes(uri))
        schema = file.schema_arrow
        if schema.equals(_SCHEMA) and (schema.metadata or {}).get(_EXCLUDED) == excluded.encode():
            return read_columns(file, columns)
    return None


def _keys_of(table: pa.Table) -> Keys:
    numbers: Keys = pc.cast(table["shard_id"], pa.int64()).to_numpy()
    units: Keys = table["unit"].to_numpy()
    return (numbers << 32) + units


def _places(keys: Keys) -> Iterator[tuple[str, int]]:
    return ((f"{key >> 32:06d}", key & 0xFFFFFFFF) for key in keys.tolist())

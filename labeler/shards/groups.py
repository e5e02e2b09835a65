"""Groups of image files, frozen: the bytes of their lists, kept on disk until a run takes them over."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.parquet_bytes import read_parquet
from labeler.shards.units import Member, Shard

if TYPE_CHECKING:
    from typing import BinaryIO

GROUP = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
    ]
)
# Source of the groups: one entry per image file.
FILES = pa.schema([GROUP.field("uri"), GROUP.field("size"), GROUP.field("etag")])


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as the plan stores tables; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def group_bytes(members: Sequence[Member]) -> bytes:
    """Return the members of a group as the bytes of its file."""
    if isinstance(members, SpooledGroup):
        return members.read()
    columns = [pa.array([getattr(m, name) for m in members], GROUP.field(name).type) for name in GROUP.names]
    return parquet_bytes(pa.Table.from_arrays(columns, schema=GROUP))


def group_digest(members: Sequence[Member]) -> str:
    """Return the digest of those bytes."""
    return members.digest if isinstance(members, SpooledGroup) else digest_of(group_bytes(members))


def members_of(table: pa.Table) -> tuple[Member, ...]:
    """Return the members that a group's table lists."""
    return tuple(Member(**row) for row in table.to_pylist())


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(
            f"the list of the input's files cannot be kept on this machine's disk: {error.strerror}; make room, or set "
            "TMPDIR to a folder with more"
        ) from None


class Spool:
    """Bytes on this machine's disk, gone with this process: lists of 80 million files are 3 GB."""

    def __init__(self) -> None:
        with _room():
            self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this process
        self._end = 0

    def add(self, data: bytes) -> int:
        """Append bytes; returns where they begin.

        Raises:
            Refused: the disk is full.
        """
        start = self._end
        with _room():
            self._file.write(data)
            self._file.flush()
        self._end += len(data)
        return start

    def read(self, start: int, length: int) -> bytes:
        """Return bytes that were added; many threads may read."""
        return os.pread(self._file.fileno(), length, start)


class SpooledGroup(Sequence[Member]):
    """The members of a group, of which nothing but their number is in memory.

    Attributes:
        digest: of the bytes of the group's file.
    """

    def __init__(self, spool: Spool, table: pa.Table) -> None:
        data = parquet_bytes(table)
        self.digest = digest_of(data)
        self._spool, self._start, self._length, self._count = spool, spool.add(data), len(data), table.num_rows

    def __len__(self) -> int:
        return int(self._count)

    @overload
    def __getitem__(self, at: int) -> Member: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Member, ...]: ...
    def __getitem__(self, at: int | slice) -> Member | tuple[Member, ...]:
        return self._members()[at]

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members())

    def read(self) -> bytes:
        """Return the bytes of the group's file."""
        return self._spool.read(self._start, self._length)

    def _members(self) -> tuple[Member, ...]:
        return members_of(read_parquet(self.read()))


def cut_groups(files: Iterable[pa.Table], root: str, images_per_group: int, limit: int | None) -> Iterator[Shard]:
    """Yield groups of image files in the order that they come in; their lists are in a spool.

    Args:
        files: tables of FILES.
        root: the folder that keys are relative to; "" where there is none.
        limit: only the first of all files; None: all. The others are read, too: who makes the tables may count them.
    """
    spool, waiting, left = Spool(), GROUP.empty_table(), limit
    for table in files:
        table = table if left is None else table.slice(0, left)
        left = None if left is None else left - table.num_rows
        waiting = pa.concat_tables([waiting, _with_keys(table, root)])
        whole = waiting.num_rows // images_per_group * images_per_group
        for start in range(0, whole, images_per_group):
            yield _shard(spool, waiting.slice(start, images_per_group), root)
        waiting = waiting.slice(whole).combine_chunks()
    if waiting.num_rows:
        yield _shard(spool, waiting, root)


def _with_keys(files: pa.Table, root: str) -> pa.Table:
    keys = pc.utf8_slice_codeunits(files["uri"], len(root) + 1 if root else 0)
    return pa.Table.from_arrays([keys, *(files[name] for name in FILES.names)], schema=GROUP)


def _shard(spool: Spool, group: pa.Table, root: str) -> Shard:
    size = pc.sum(group["size"], min_count=0).as_py()
    return Shard("", root, size, None, "images", members=SpooledGroup(spool, group.combine_chunks()))

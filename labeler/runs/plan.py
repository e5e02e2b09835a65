"""The plan of a run: which shards, in which generation; image files are frozen in groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from labeler import storage
from labeler.digests import digest_of
from labeler.parquet_bytes import read_parquet
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.shards import Shard, skipped
from labeler.shards.groups import GROUP, group_bytes, group_digest, members_of, parquet_bytes

PLAN = pa.schema(
    [
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),  # of a group of image files: the digest of its groups/ file
        pa.field("format", pa.string(), nullable=False),
        pa.field("images", pa.int64()),  # where known without reading the shard
        pa.field("max_images", pa.int64()),  # input.limit ends inside this shard
        pa.field("name", pa.string()),  # what the file names of its images begin with; null for groups
    ]
)
_PLAN_BEFORE = PLAN.remove(PLAN.get_field_index("name"))  # of reader version 2
_ROWS_AT_ONCE = 4096
_PREVIOUS = b"previous_plan"  # metadata: the digest of the plan file before, of all but the first
_SKIPPED = b"skipped_files"  # metadata: what was listed beside the input, as shards.skipped writes it


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One line of the plan: a shard, and its number of images where that is known beforehand."""

    shard: Shard
    images: int | None

    @property
    def shard_id(self) -> str:
        return self.shard.shard_id


def file_name_prefix(planned: PlannedShard) -> str:
    """Return what a file name has before the image key: the shard's name and "/" for tars and Parquet, else nothing."""
    shard = planned.shard
    return "" if shard.format == "images" else f"{shard.name or storage.basename(shard.uri)}/"


def group_files(plan: Iterable[PlannedShard]) -> Iterator[tuple[str, bytes]]:
    """Path in the run folder and bytes of each group of image files."""
    for planned in plan:
        if planned.shard.members is not None:
            data = group_bytes(planned.shard.members)
            yield layout.group_file(planned.shard_id, digest_of(data)), data


def plan_bytes(
    shards: Iterable[PlannedShard], skipped_files: Mapping[str, int] | None = None, *, previous: str | None = None
) -> bytes:
    """Return one generation of the plan as the bytes of its plan/ file; equal shards give equal bytes.

    Args:
        skipped_files: what was listed beside them, by extension.
        previous: the digest of the plan file of the generation before; None for the first.
    """
    planned = list(shards)
    columns: dict[str, Callable[[PlannedShard], object]] = {
        "shard_id": lambda p: p.shard_id,
        "uri": lambda p: p.shard.uri,
        "size": lambda p: p.shard.size,
        "etag": _etag_of,
        "format": lambda p: p.shard.format,
        "images": lambda p: p.images,
        "max_images": lambda p: p.shard.max_images,
        "name": lambda p: p.shard.name,
    }
    arrays = [pa.array(map(columns[field.name], planned), field.type) for field in PLAN]
    metadata = {_SKIPPED: skipped.to_bytes(skipped_files)} if skipped_files else {}
    metadata |= {_PREVIOUS: previous.encode()} if previous else {}
    return parquet_bytes(pa.Table.from_arrays(arrays, schema=PLAN.with_metadata(metadata)))


def _etag_of(planned: PlannedShard) -> str | None:
    """The ETag, or of a group of image files the digest of its groups/ file."""
    return planned.shard.etag if planned.shard.members is None else group_digest(planned.shard.members)


def _table(uri: str, *schemas: pa.Schema, digest: str | None = None, data: bytes | None = None) -> pa.Table:
    """A plan's file, which has one of these schemas.

    Args:
        digest: of its bytes, where it is known.
        data: its bytes, where they were read.

    Raises:
        StorageError: it cannot be read, or is damaged.
    """
    data = storage.read_bytes(uri) if data is None else data
    with undamaged(uri):
        if digest is not None and digest_of(data) != digest:
            raise pa.ArrowInvalid("its bytes are not those that were written")
        table = read_parquet(data)
        if not any(table.schema.equals(schema) for schema in schemas):
            raise pa.ArrowInvalid("its columns are not those of a plan")
    return table


@contextmanager
def undamaged(uri: str, advice: str = "restore it") -> Iterator[None]:
    """While inside, what cannot be parsed is a StorageError that names the file, and what to do about it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        said = (str(error).splitlines() or ["?"])[0]
        raise storage.StorageError(f"{storage.redact(uri)} is damaged ({said}); {advice}") from error


def read_plan(run: Run) -> list[PlannedShard]:
    """Every generation's shards, in plan order; members of image groups are not loaded (see `with_members`).

    A derived run has the plan of the run that it derives from.

    Raises:
        StorageError: if a plan file cannot be read, is damaged, missing, or not the one that was written there.
    """
    planned: list[PlannedShard] = []
    expected = run.root.manifest.digests.get(layout.plan_file(0))
    for uri in _plan_files(run):
        data = storage.read_bytes(uri)
        table = _table(uri, PLAN, _PLAN_BEFORE, digest=expected if not planned else None, data=data)
        before = (table.schema.metadata or {}).get(_PREVIOUS)
        if planned and before is not None and before.decode("ascii", "replace") != expected:
            raise _not_whole(uri, "it does not follow the plan file before it")
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):  # a row as a dictionary takes 1 kB
            for row in batch.to_pylist():
                images = row.pop("images")
                if row["shard_id"] != f"{len(planned):06d}":
                    raise _not_whole(uri, f"it has shard {row['shard_id']} where shard {len(planned):06d} follows")
                planned.append(PlannedShard(Shard(**row), images))
        expected = digest_of(data)
    return planned


def _plan_files(run: Run) -> list[str]:
    """The URIs of a run's plan files, in order, none excluded."""
    folder = run.root.path(layout.PLAN_FOLDER)
    found = sorted(o.uri for o in storage.list_objects(folder) if o.uri.endswith(".parquet"))
    wanted = [run.root.path(layout.plan_file(generation)) for generation in range(len(found))]
    for uri, name in zip(found, wanted, strict=True):
        if storage.basename(uri) != storage.basename(name):
            raise _not_whole(uri, f"{storage.basename(name)} is missing before it")
    if not found:
        raise storage.StorageError(f"run {storage.redact(run.root.uri)} has no plan; restore its plan/ folder")
    return found


def _not_whole(uri: str, why: str) -> storage.StorageError:
    return storage.StorageError(
        f"the plan of the run is not as it was written: {storage.redact(uri)}: {why}; restore the plan/ folder"
    )


def listed_beside(run: Run) -> Counter[str]:
    """Return what was listed beside the input when it was planned or extended, by extension.

    Raises:
        StorageError: if a plan file cannot be read or is damaged.
    """
    found = Counter[str]()
    for uri in _plan_files(run):
        metadata = _table(uri, PLAN, _PLAN_BEFORE).schema.metadata or {}
        with undamaged(uri):
            found = skipped.from_bytes(metadata.get(_SKIPPED, b""))  # each generation lists the whole input
    return found


def generations(run: Run) -> int:
    """Return how many generations the plan has."""
    return sum(1 for o in storage.list_objects(run.path(layout.PLAN_FOLDER)) if o.uri.endswith(".parquet"))


def with_members(shard: Shard, run_uri: str) -> Shard:
    """The shard with its frozen members, when it is a group of image files; any other shard as it is.

    Args:
        run_uri: of the run that has the plan (`Run.root`).
    """
    if shard.format != "images":
        return shard
    assert shard.etag is not None  # the plan has the digest of a group
    try:
        rows = _table(storage.join(run_uri, layout.group_file(shard.shard_id, shard.etag)), GROUP, digest=shard.etag)
    except storage.Unreadable:
        rows = _table(storage.join(run_uri, layout.group_file_before(shard.shard_id)), GROUP, digest=shard.etag)
    return replace(shard, members=members_of(rows))

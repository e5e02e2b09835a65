"""The rows of a run: Arrow schemas, declared once, and one unit's rows to and from Parquet bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labeler.labels import extensions
from labeler.labels.detections import Detections
from labeler.labels.detections_column import (
    DETECTIONS,
    DetectionsColumn,
    detections_type,
    has_masks,
    is_detections,
    to_column,
)
from labeler.labels.mask_runs import each_fills
from labeler.parquet_bytes import open_parquet, read_columns, read_parquet

# Raise when the same bytes, model and prompts would give other rows: decoding, scoring, merging, rounding.
DECODING_VERSION = 2

STATUSES = (
    "labeled",  # at least one stored detection
    "empty",  # none at or above the score floor, after merging and dropping negatives
    "decode_error",
    "too_large",
    "read_error",  # missing, null, duplicate or truncated member
    "detect_error",  # non-finite scores, or labeling it raises
    "quarantined",  # it kills the process
    "removed",  # reserved for deletion requests
    "unlisted",  # of an imported run: its file does not say anything of the image, so that it may hold anything
)

UNLISTED = "unlisted"
# In `error` of a labeled row of a job with names per image.
ALL_NAMES = "prompts.from knows no names for it: it was asked for all"
LABELED = ("labeled", "empty")  # rows of images that a detector has seen

LABELS = pa.schema(
    [
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("digest", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("orientation", pa.int8()),
        pa.field("phash", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("detections", DETECTIONS, nullable=False),
    ]
)


@dataclass(frozen=True)
class Row:
    """One input image's outcome: exactly one per image, whatever happened to it.

    Attributes:
        asked, review: optional columns, as `extensions.OF_IMAGES` says; None for null.
    """

    image_key: str
    shard_id: str
    index: int
    uri: str
    status: str
    offset: int | None = None
    length: int | None = None
    digest: str | None = None
    width: int | None = None
    height: int | None = None
    orientation: int | None = None
    phash: int | None = None
    error: str | None = None
    detections: Detections = field(default_factory=Detections.empty)
    kept: Mapping[str, str | None] = field(default_factory=dict)
    asked: Sequence[int] | None = None
    review: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is none of {', '.join(STATUSES)}")


def schema(keep: Sequence[str] = (), columns: Sequence[str] = ()) -> pa.Schema:
    """Return the labels schema, then the optional columns of images, then the columns the user keeps, as strings.

    Args:
        columns: the optional ones, of images and of detections; see `extensions`.
    """
    optional = extensions.image_fields(columns)
    clash = sorted(set(keep) & {*LABELS.names, *(field.name for field in optional)})
    if clash:
        raise ValueError(f"input.keep: {clash[0]!r} is the name of a labels column")
    plain = LABELS.set(
        LABELS.get_field_index("detections"), pa.field("detections", detections_type(columns), nullable=False)
    )
    return pa.schema([*plain, *optional, *(pa.field(name, pa.string()) for name in keep)])


def rows_to_table(rows: Sequence[Row], keep: Sequence[str] = (), columns: Sequence[str] = ()) -> pa.Table:
    """Return rows as an Arrow table of exactly `schema(keep, columns)`; nothing is inferred, so
    empty lists are safe.
    """
    whole = schema(keep, columns)
    arrays = []
    for wanted in whole:
        if wanted.name == "detections":
            arrays.append(to_column([row.detections for row in rows], columns))
        elif wanted.name in keep:
            arrays.append(pa.array([row.kept.get(wanted.name) for row in rows], wanted.type))
        else:
            arrays.append(pa.array([getattr(row, wanted.name) for row in rows], wanted.type))
    return pa.Table.from_arrays(arrays, schema=whole)


def complete_table(
    rows: Sequence[Row], keep: Sequence[str], others: pa.Table | None, columns: Sequence[str] = ()
) -> pa.Table:
    """Return the table of a whole unit by index: rows, and `others` that are copied unchanged.

    Args:
        columns: the optional ones of the run; those that `others` have are there in any case.
    """
    if others is None:
        return rows_to_table(rows, keep, columns)
    columns = extensions.in_order({*columns, *columns_of(others, keep)})
    table = rows_to_table(rows, keep, columns)
    return pa.concat_tables([table, widened(others, keep, columns)]).sort_by("index").combine_chunks()


def places_of(table: pa.Table) -> list[Row]:
    """Return what is left of rows once their images are removed."""
    places = table.select(["image_key", "shard_id", "index", "uri"]).to_pylist()
    return [Row(**place, status="removed") for place in places]


def columns_of(table: pa.Table, keep: Sequence[str]) -> tuple[str, ...]:
    """Return the optional columns that a table of a run's rows has; one that the user keeps is none,
    whatever its name.
    """
    of_images = [name for name in table.schema.names if name in extensions.OF_IMAGES and name not in keep]
    of_detections = [field.name for field in table.schema.field("detections").type.value_type]
    return extensions.in_order([*of_images, *(name for name in of_detections if name in extensions.OF_DETECTIONS)])


def widened(table: pa.Table, keep: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Whole rows in the schema of a run with these optional columns; those that they have not are null."""
    whole = schema(keep, columns)
    for wanted in extensions.image_fields(columns):
        if wanted.name not in table.schema.names:
            table = table.append_column(wanted, pa.nulls(len(table), wanted.type))
    return table.select(whole.names).replace_schema_metadata(None).cast(whole)


def table_to_parquet(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of one unit's file: zstd Parquet, with the file metadata (run id, model digest, versions, ...)
    in the schema.

    Its pages have checksums: without, most flipped bits would be read as other boxes and scores.
    """
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    sink = pa.BufferOutputStream()
    statistics = ["shard_id", "index", "status"]
    pq.write_table(table, sink, compression="zstd", write_statistics=statistics, write_page_checksum=True)
    return bytes(sink.getvalue())


BOXES = "detections without masks"  # to ask for instead of "detections": masks take most of the time to read and check


def parquet_to_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the unit file's rows (all columns, or the named ones; with BOXES among them, "detections" has no masks).

    Raises:
        pyarrow.ArrowException, OSError: it is damaged: cut off, or a page is not what its checksum says, or the columns
            are not those of labels, or the runs of a mask do not fill its image. (Other damage, such as a changed bit
            of the file's metadata, is not noticed.)
    """
    names = list(columns) if columns else None
    if names is not None and BOXES in names:
        names = ["detections" if name == BOXES else name for name in names]
        table = _read_without_masks(data, names)
    else:
        table = read_parquet(data, names)
    for wanted in LABELS:
        if names is None or wanted.name in names:
            at = table.schema.get_field_index(wanted.name)
            if at < 0 or not _holds(table.schema.field(at).type, wanted.type):
                raise pa.ArrowInvalid(f"it has no column {wanted.name} of type {wanted.type}")
    if "detections" in table.schema.names and has_masks(table["detections"].type):
        _require_filled(table["detections"])
    return table


def _read_without_masks(data: bytes, names: Sequence[str]) -> pa.Table:
    file = open_parquet(data)
    paths = [file.schema.column(place).path for place in range(len(file.schema))]
    # columns of input.keep may have a dot
    wanted = [path for path in paths if path in names or path.split(".")[0] in names]
    return read_columns(file, [path for path in wanted if path in names or ".mask." not in path])


def _require_filled(detections: pa.ChunkedArray) -> None:
    """Raise ArrowInvalid if the runs of a mask do not fill its image: pycocotools would compare it forever."""
    for chunk in pc.struct_field(pc.list_flatten(detections), "mask").chunks:
        found = chunk.drop_null()
        if not len(found):
            continue
        counts, sizes = found.field("counts"), found.field("size")
        if counts.null_count or sizes.null_count or pc.any(pc.not_equal(pc.list_value_length(sizes), 2)).as_py():
            raise pa.ArrowInvalid("a mask has no size or no runs")
        pixels = sizes.flatten().to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, 2).prod(1)
        offsets = np.append(0, np.cumsum(pc.binary_length(counts).to_numpy(zero_copy_only=False), dtype=np.int64))
        text = np.frombuffer(b"".join(counts.to_pylist()), np.uint8)
        if not each_fills(text, offsets, pixels).all():
            raise pa.ArrowInvalid("the runs of a mask do not fill its image")


@dataclass(frozen=True)
class UnitExtent:
    """The rows that a unit file has: of these shards (one, in a sound file), with these indices."""

    shard_ids: frozenset[str]
    indices: range


def unit_extent(data: bytes) -> UnitExtent:
    """Read a unit file's extent from the statistics in its footer.

    Raises:
        pyarrow.ArrowException: if it has none, or its rows do not follow each other.
    """
    metadata = pq.read_metadata(pa.BufferReader(data))
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if not {"shard_id", "index"} <= set(names):
        raise pa.ArrowInvalid("it has no column shard_id or index")
    shard_ids: set[str] = set()
    first, last = [], []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        shard_id, index = (group.column(names.index(name)).statistics for name in ("shard_id", "index"))
        if shard_id is None or index is None or not (shard_id.has_min_max and index.has_min_max):
            raise pa.ArrowInvalid("its footer does not say which rows it has")
        shard_ids |= {shard_id.min, shard_id.max}
        first.append(index.min)
        last.append(index.max)
    indices = range(min(first, default=0), max(last, default=-1) + 1)
    if len(indices) != metadata.num_rows:
        raise pa.ArrowInvalid(f"it has {metadata.num_rows} rows for the indices {indices.start} to {indices.stop - 1}")
    return UnitExtent(frozenset(shard_ids), indices)


def _holds(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether values of a type are read as those of another."""
    return bool(found.equals(wanted)) or (wanted.equals(DETECTIONS) and is_detections(found))


def table_to_rows(table: pa.Table, keep: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a labels table; columns beyond the schema are optional ones, and what the user keeps.

    Args:
        keep: what the user keeps; needed where that has the name of an optional column.
    """
    optional = [name for name in columns_of(table, keep) if name in extensions.OF_IMAGES]
    plain = [*(name for name in LABELS.names if name != "detections"), *optional]
    kept = [name for name in table.schema.names if name not in (*LABELS.names, *optional)]
    return [
        Row(**{name: row[name] for name in plain}, detections=found, kept={name: row[name] for name in kept})
        for row, found in zip(
            table.drop_columns(["detections"]).to_pylist(), DetectionsColumn(table).per_row(masks=True), strict=True
        )
    ]

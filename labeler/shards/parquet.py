"""Read images out of a Parquet file, row group by row group: bytes, {bytes, path} structs, or URIs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeler import storage
from labeler.ahead import Fetch, in_order
from labeler.errors import Refused
from labeler.shards import kept, text_images
from labeler.shards.fetching import fetch, held
from labeler.shards.image_column import ImageColumn, find_image_column
from labeler.shards.units import Item, Placed, Shard, Skip, UnitCutter, too_large
from labeler.storage.ranged_file import RangedFile

REMOTE_ROW_BYTES = 1 << 20  # what a row counts for in a unit when its image lies elsewhere and its size is not known
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 256
_READ_BYTES = 2 << 20
_OBJECT_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "http", "https")
_UNREADABLE = (pa.ArrowException, OSError)


def open_parquet(shard: Shard) -> pq.ParquetFile:
    """Return the shard's Parquet file, its footer read.

    Raises:
        StorageError: the object cannot be read. pyarrow's own errors: it is not a Parquet file.
    """
    size, etag = shard.size, shard.etag
    if size is None:
        found = storage.head(shard.uri)
        if found is None:
            raise storage.Unreadable(f"{storage.redact(shard.uri)}: no such object", "missing object")
        size, etag = found.size, etag or found.etag
    return pq.ParquetFile(RangedFile(shard.uri, size, etag), buffer_size=_READ_BYTES, pre_buffer=False)


def count_rows(shard: Shard) -> int | None:
    """Return rows by the footer; None when the footer is unreadable."""
    try:
        return int(open_parquet(shard).metadata.num_rows)
    except _UNREADABLE:
        return None


def image_column_problem(shard: Shard, wanted: str | None) -> Refused | None:
    """Return why no image can be read from the file: a NoImageColumn, or a choice that is the user's; else None."""
    try:
        find_image_column(open_parquet(shard).schema_arrow, wanted, shard.uri)
    except _UNREADABLE:
        return None  # becomes a row of its own when it is read
    except Refused as problem:
        return problem
    return None


def read_parquet(
    shard: Shard,
    cutter: UnitCutter,
    *,
    keep: Sequence[str],
    skip: Skip,
    max_image_bytes: int,
    max_images: int,
    max_bytes: int,
    image_column: str | None = None,
) -> Generator[Placed, None, None]:
    """Yield every row, in order. Row groups whose units are all skipped are not downloaded (only their paths, for the
    keys).

    Units never cross a span of row groups (see `_spans`), so their numbers follow from the footer.

    Raises:
        Refused: there is no image column.
    """
    try:
        file = open_parquet(shard)
        schema = file.schema_arrow
    except _UNREADABLE:
        yield Placed(cutter.place(0), Item("<footer>", 0, shard.uri, None, None, None, "unreadable Parquet footer"))
        return
    column = find_image_column(schema, image_column, shard.uri)
    columns = [name for name in dict.fromkeys(keep) if name in schema.names]
    reader = _RowReader(shard, file, column, columns, tuple(keep), max_image_bytes)
    yield from in_order(_jobs(reader, cutter, skip, max_images, max_bytes), held=held)


def _jobs(
    reader: _RowReader, cutter: UnitCutter, skip: Skip, max_images: int, max_bytes: int
) -> Iterator[Fetch[Placed] | Placed]:
    first_row = 0
    for groups, rows, span_bytes in _spans(reader, max_images, max_bytes):
        fits = span_bytes <= max_bytes
        units = range(cutter.next_units[0], cutter.next_units[0] + -(-rows // max_images))
        if fits and all(map(skip, units)):
            reader.pass_over(groups)
            yield from (Placed(cutter.place(0), None) for _ in range(rows))
        else:
            for row in reader.rows(groups, first_row, max(1, span_bytes // max(1, rows))):
                unit = cutter.place(0 if fits else row.cost)
                yield Placed(unit, None) if skip(unit) else row.job(unit)
        first_row += rows
        cutter.close()


def _spans(reader: _RowReader, max_images: int, max_bytes: int) -> Iterator[tuple[list[int], int, int]]:
    """Yield (row groups, rows, bytes): neighbors that together fit into one unit, or a single row group.

    Bytes are the footer's uncompressed sizes of the image column. A span that fits `max_bytes` is cut by the number
    of images alone, so how many units it has is known without reading it.
    """
    groups: list[int] = []
    rows = size = 0
    for group in range(reader.row_groups):
        more_rows, more_bytes = reader.extent(group)
        if more_rows == 0:
            continue
        if groups and (rows + more_rows > max_images or size + more_bytes > max_bytes):
            yield groups, rows, size
            groups, rows, size = [], 0, 0
        groups, rows, size = [*groups, group], rows + more_rows, size + more_bytes
    if groups:
        yield groups, rows, size


class _Row:
    """One row: its bytes, or where to get them, or why there are none."""

    __slots__ = ("_address", "_item", "_max_bytes")

    def __init__(self, item: Item, address: str | None, max_bytes: int) -> None:
        self._item, self._address, self._max_bytes = item, address, max_bytes

    @property
    def cost(self) -> int:
        """Bytes it counts for in a unit."""
        if self._address is not None:
            return REMOTE_ROW_BYTES
        return len(self._item.data or b"")

    def job(self, unit: int) -> Fetch[Placed] | Placed:
        if self._address is not None:
            return Fetch(REMOTE_ROW_BYTES, partial(self._fetch, unit))
        item, data = self._item, self._item.data
        if data is not None and len(data) > self._max_bytes:
            error = too_large(len(data), self._max_bytes)
            item = Item(item.key, item.index, item.uri, None, None, None, error, item.kept)
        return Placed(unit, item)

    def _fetch(self, unit: int) -> Placed:
        return Placed(unit, fetch(self._item, size=None, etag=None, max_bytes=self._max_bytes))


class _RowReader:
    """An open file and the paths seen so far, which keys must not repeat."""

    def __init__(
        self,
        shard: Shard,
        file: pq.ParquetFile,
        column: ImageColumn,
        columns: Sequence[str],
        keep: tuple[str, ...],
        max_image_bytes: int,
    ) -> None:
        self._shard, self._file, self._column = shard, file, column
        self._columns, self._keep, self._max_image_bytes = columns, keep, max_image_bytes
        self._paths: set[str] = set()
        self._leaves = [
            leaf
            for leaf in range(file.metadata.num_columns)
            if file.metadata.schema.column(leaf).path.split(".")[0] == column.name
        ]

    @property
    def row_groups(self) -> int:
        return int(self._file.metadata.num_row_groups)

    def extent(self, group: int) -> tuple[int, int]:
        """Return (rows, bytes of the image column) of a row group."""
        found = self._file.metadata.row_group(group)
        if self._column.kind == "uri":
            return int(found.num_rows), int(found.num_rows) * REMOTE_ROW_BYTES
        return int(found.num_rows), sum(int(found.column(leaf).total_uncompressed_size) for leaf in self._leaves)

    def pass_over(self, groups: Sequence[int]) -> None:
        """Note the paths of rows that are not read."""
        if self._column.has_path:
            for group in groups:
                try:
                    table = self._file.read_row_group(group, columns=[f"{self._column.name}.path"], use_threads=False)
                except _UNREADABLE:
                    continue
                for value in table.column(0).to_pylist():
                    self._paths.add((value or {}).get("path") or "")

    def rows(self, groups: Sequence[int], first_row: int, row_bytes: int) -> Iterator[_Row]:
        """Yield the rows of some row groups; after unreadable data of a row group, rows with that error."""
        batch_size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))
        index = first_row
        for group in groups:
            rows, size = self.extent(group)
            end = index + rows
            if self._column.kind != "uri" and size > rows * self._max_image_bytes:
                error = f"row group of {size} bytes has more than {self._max_image_bytes} a row"
                for large in range(index, end):
                    yield self._without_image(str(large), large, error, dict.fromkeys(self._keep))
                index = end
                continue
            try:
                for batch in self._batches(group, batch_size):
                    for place in range(batch.num_rows):
                        yield self._row(batch, place, index)
                        index += 1
            except _UNREADABLE:
                pass
            for lost in range(index, end):
                yield self._without_image(str(lost), lost, "unreadable Parquet data", dict.fromkeys(self._keep))
            index = end

    def _batches(self, group: int, batch_size: int) -> Iterator[pa.RecordBatch]:
        names = list(dict.fromkeys([self._column.name, *self._columns]))
        batches = self._file.iter_batches(batch_size, row_groups=[group], columns=names, use_threads=False)
        return iter(batches)

    def _row(self, batch: pa.RecordBatch, place: int, index: int) -> _Row:
        values = {
            name: kept.cell_text(batch.column(name)[place]) if name in self._columns else None for name in self._keep
        }
        cell = batch.column(self._column.name)[place]
        if (size := self._encoded_bytes(cell)) > self._max_image_bytes:  # said without a copy of it
            key = self._key(cell["path"].as_py() if self._column.has_path else None, index)
            return self._without_image(key, index, too_large(size, self._max_image_bytes), values)
        try:
            data, path = self._image_or_path(cell.as_py())
        except ValueError:
            return self._without_image(str(index), index, text_images.NOT_BASE64, values)
        key = path if self._column.kind == "uri" and path else self._key(path, index)
        if data is not None:
            item = Item(key, index, self._shard.uri, None, None, bytes(data), None, values)
            return _Row(item, None, self._max_image_bytes)
        if not path:
            return self._without_image(key, index, "null image", values)
        address = self._address(path)
        if not self._may_name(address):
            return self._without_image(key, index, "not a valid address", values)
        return _Row(Item(key, index, address, None, None, None, None, values), address, self._max_image_bytes)

    def _image_or_path(self, value: Any) -> tuple[bytes | None, str | None]:
        """Return the image that a cell holds, and the path that it names.

        Raises:
            ValueError: if a text begins like an image and cannot be decoded.
        """
        if self._column.kind == "struct":
            return (value or {}).get("bytes"), (value or {}).get("path")
        if self._column.kind == "bytes":
            return value, None
        if value and text_images.holds_image(value):
            return text_images.image_of(value), None
        return None, value

    def _encoded_bytes(self, cell: Any) -> int:
        """Return bytes of the image in a cell, without a copy of it; of a long text those that its
        base64 stands for.
        """
        if not cell.is_valid:
            return 0
        if self._column.kind == "uri":
            characters = kept.size_of(cell)
            return characters // 4 * 3 if characters > text_images.MAX_ADDRESS else 0
        return kept.size_of(cell["bytes"] if self._column.kind == "struct" else cell)

    def _may_name(self, address: str) -> bool:
        """Return whether a file from elsewhere may name this address: objects, not local files or
        other fsspec schemes.
        """
        own = storage.scheme(self._shard.uri)
        if storage.is_local(self._shard.uri) and storage.is_local(address):
            return True
        return "::" not in address and storage.scheme(address) in (*_OBJECT_SCHEMES, *((own,) if own != "file" else ()))

    def _without_image(self, key: str, index: int, error: str, values: dict[str, str | None]) -> _Row:
        return _Row(Item(key, index, self._shard.uri, None, None, None, error, values), None, self._max_image_bytes)

    def _key(self, path: str | None, index: int) -> str:
        """Return the path of a struct, if no earlier row has it; else the row number."""
        if not path or path in self._paths:
            return str(index)
        self._paths.add(path)
        return path

    def _address(self, path: str) -> str:
        """Resolve a path without scheme against the Parquet file's folder."""
        if "://" in path or path.startswith("/"):
            return path
        return storage.join(storage.parent(self._shard.uri), path)

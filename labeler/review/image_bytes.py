"""Rows' encoded images, read by range: of tars an image's bytes, of Parquet the row groups that hold one, each once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeler import storage
from labeler.digests import digest_of
from labeler.errors import LabelerError
from labeler.runs import Snapshot
from labeler.shards.image_column import find_image_column
from labeler.shards.parquet import open_parquet
from labeler.shards.text_images import image_of

Row = Mapping[str, Any]  # of labels/: `uri`, `offset`, `length`, `digest`, `shard_id`, `index` are used
_BATCH_BYTES = 8 << 20  # of a row group's images that are held at once
_BATCH_ROWS = 256
_UNREADABLE = (LabelerError, pa.ArrowException, OSError)


class ImageReader:
    """Reads images of a run's rows. Thread-safe.

    Tars and image files give exactly the image's bytes. Rows of a Parquet file are not addressable one by one: of the
    row groups that hold any of the images the image column is read, so what is wanted of a file is read together.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        snapshot.run.s3_rules().apply()
        self._shards = {planned.shard_id: planned.shard for planned in snapshot.plan}
        self._column: str | None = snapshot.run.manifest.config["input"].get("image_column")

    def is_embedded(self, row: Row) -> bool:
        """Return whether the image is stored inside a Parquet row."""
        shard = self._shards[row["shard_id"]]
        return row["offset"] is None and shard.format == "parquet" and row["uri"] == shard.uri

    def together(self, rows: Sequence[Row]) -> list[list[int]]:
        """Places of the rows, those in one list that `read` should be given together, in the order it reads them."""
        alone = [[place] for place, row in enumerate(rows) if not self.is_embedded(row)]
        embedded = [place for place, row in enumerate(rows) if self.is_embedded(row)]
        embedded.sort(key=lambda place: (rows[place]["shard_id"], rows[place]["index"]))
        return alone + [list(group) for _, group in groupby(embedded, key=lambda place: rows[place]["shard_id"])]

    def read(self, rows: Sequence[Row]) -> Iterator[bytes | LabelerError]:
        """The bytes of each row of one of `together`'s lists, one after the other; a few MB are held.

        An image that cannot be read, or is no longer the one that was labeled, is an error of one line.
        """
        found = self._embedded(rows) if self.is_embedded(rows[0]) else map(_addressed, rows)
        for row, data in zip(rows, found, strict=True):
            changed = isinstance(data, bytes) and row["digest"] is not None and digest_of(data) != row["digest"]
            yield LabelerError("the image is no longer the one that was labeled") if changed else data

    def _embedded(self, rows: Sequence[Row]) -> Iterator[bytes | LabelerError]:
        """Of rows of one Parquet file, by rising index."""
        shard = self._shards[rows[0]["shard_id"]]
        try:
            file = open_parquet(shard)
            name = find_image_column(file.schema_arrow, self._column, shard.uri).name
        except _UNREADABLE as error:
            yield from [_problem(error)] * len(rows)
            return
        left, first = [int(row["index"]) for row in rows], 0
        for group in range(file.metadata.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            here = [index - first for index in left if index < end]
            if here:
                yield from _read_group(file, name, group, here)
            left, first = left[len(here) :], end
        yield from [LabelerError("the Parquet file has fewer rows than when it was labeled")] * len(left)


def _addressed(row: Row) -> bytes | LabelerError:
    try:
        if row["offset"] is not None:
            return storage.read_bytes(row["uri"], start=row["offset"], length=row["length"])
        return storage.read_bytes(row["uri"])
    except LabelerError as error:
        return error


def _read_group(file: pq.ParquetFile, name: str, group: int, rows: Sequence[int]) -> Iterator[bytes | LabelerError]:
    """The images of some rows of a row group, counted from its start and rising; a batch of it is held at a time."""
    about = file.metadata.row_group(group)
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))
    start = given = 0
    try:
        for batch in file.iter_batches(size, row_groups=[group], columns=[name], use_threads=False):
            while given < len(rows) and rows[given] < start + batch.num_rows:
                given += 1
                yield _bytes_of(batch.column(name)[rows[given - 1] - start].as_py())
            start += batch.num_rows
            if given == len(rows):
                return
    except _UNREADABLE as error:
        yield from [_problem(error)] * (len(rows) - given)


def _bytes_of(value: Any) -> bytes | LabelerError:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, str):  # the rows that are read here have no other address, so the text is the image
        try:
            return image_of(data)
        except ValueError as error:
            return LabelerError(f"the row has no image: {error}")
    return LabelerError("the row has no image") if data is None else bytes(data)


def _problem(error: Exception) -> LabelerError:
    return error if isinstance(error, LabelerError) else LabelerError(f"Parquet cannot be read: {type(error).__name__}")

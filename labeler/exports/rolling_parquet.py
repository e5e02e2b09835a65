"""Parquet files written row by row, their memory that of one row group; their columns as `datasets` names them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeler.exports.formats import Frame, Part, part_name

_GROUP_BYTES = 64 << 20


class ParquetRows:
    """Owns one file in the making.

    Args:
        group_rows, group_bytes: a row group is written when it has that many rows, or that many bytes of images.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, group_rows: int, group_bytes: int) -> None:
        self.path = path
        self._schema, self._group_rows, self._group_bytes = schema, group_rows, group_bytes
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._rows = self._bytes = 0

    def add(self, columns: Mapping[str, list[Any]], *, payload_bytes: int = 0) -> None:
        """Append equally long columns, one for each of the schema."""
        for name, values in self._columns.items():
            values.extend(columns[name])
        self._rows += len(columns[self._schema.names[0]])
        self._bytes += payload_bytes
        if self._rows >= self._group_rows or self._bytes >= self._group_bytes:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            arrays = [pa.array(self._columns[field.name], field.type) for field in self._schema]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._columns = {name: [] for name in self._schema.names}
            self._rows = self._bytes = 0

    @property
    def bytes_written(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self.flush()
        self._writer.close()
        self._file.close()


class ParquetPart(Part):
    """A part of a Parquet export: one file per table and split. It is full when one file reaches the size limit.

    Args:
        schemas: of each table: the folder of its files.
        most_bytes: of one file.
        group_rows: of one row group, at the most.
    """

    def __init__(
        self,
        frame: Frame,
        number: int,
        folder: Path,
        schemas: Mapping[str, pa.Schema],
        most_bytes: int,
        group_rows: int,
    ) -> None:
        super().__init__(frame, number, most_bytes=most_bytes)
        self._files = {
            (table, split): ParquetRows(
                folder / f"{table}-{split}", schema, group_rows=group_rows, group_bytes=_GROUP_BYTES
            )
            for table, schema in schemas.items()
            for split in frame.splits
        }

    @property
    def is_full(self) -> bool:
        self._bytes = max(file.bytes_written for file in self._files.values())
        return super().is_full

    def finish(self) -> Mapping[str, Path]:
        for file in self._files.values():
            file.close()
        return {
            f"{table}/{part_name(split, self._number, 'parquet')}": file.path
            for (table, split), file in self._files.items()
        }


IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
IMAGE_FEATURE: dict[str, Any] = {"_type": "Image"}


def class_label(names: Sequence[str]) -> dict[str, Any]:
    """A 0-based class index with its names."""
    return {"_type": "ClassLabel", "names": list(names)}


def sequence(feature: Mapping[str, Any], length: int = -1) -> dict[str, Any]:
    """A list; this spelling is read by old and new versions of `datasets`."""
    return {"_type": "Sequence", "feature": dict(feature), "length": length}


def value(type_: pa.DataType) -> dict[str, Any]:
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return {"_type": "Value", "dtype": names.get(type_, str(type_))}


def with_features(schema: pa.Schema, special: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The schema, telling `datasets` what each column is; plain columns speak for themselves."""
    features = {field.name: special.get(field.name) or value(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})

"""One Parquet file written row by row: rows wait until they fill a row group, so memory is that of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetRows:
    """Owns one file in the making.

    Args:
        group_rows, group_bytes: a row group is written when it has so many rows, or so many bytes of images.
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

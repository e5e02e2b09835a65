"""Read small Parquet files whose bytes are in memory.

`pyarrow.parquet.read_table` scans in threads that may hold the bytes for a moment after it has returned. Where that
moment is the end of the process, C++ ends it with "terminate called without an active exception" and exit code 134,
after all is done: fifteen of sixty reports did. Nothing here leaves a thread behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def open_parquet(data: bytes) -> pq.ParquetFile:
    """Return a file, its footer read; its pages are verified where they have checksums.

    Raises:
        pyarrow.ArrowException, OSError: it is damaged.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)


def read_columns(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of an open file: all columns, or these paths."""
    return file.read(None if columns is None else list(columns), use_threads=False)


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows: all columns, or the named ones, in that order.

    Raises:
        pyarrow.ArrowException, OSError: it is damaged, or has no such column.
    """
    table = read_columns(open_parquet(data), columns)
    if columns is None:
        return table
    if missing := [name for name in columns if name not in table.column_names]:
        raise pa.ArrowInvalid(f"it has no column {missing[0]}")
    return table.select(list(columns))

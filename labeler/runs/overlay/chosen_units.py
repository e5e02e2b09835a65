"""Which units of its parent a derived run makes again: selection.parquet, frozen when the run is created."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from labeler.parquet_bytes import read_parquet
from labeler.runs import layout
from labeler.runs.manifest import Run

SELECTION = pa.schema(
    [
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),  # of it that are redone; the others' rows are copied unchanged
    ]
)

Selection = Mapping[str, Mapping[int, int]]  # shard id -> unit -> images to make again


def selection_bytes(chosen: Selection) -> bytes:
    """A selection as the bytes of its file; equal selections give equal bytes."""
    rows = [
        {"shard_id": shard_id, "unit": unit, "images": images}
        for shard_id, units in sorted(chosen.items())
        for unit, images in sorted(units.items())
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_selection(run: Run) -> Selection:
    """The selection of a derived run."""
    chosen: dict[str, dict[int, int]] = {}
    for row in read_parquet(run.verified(layout.SELECTION)).to_pylist():
        chosen.setdefault(row["shard_id"], {})[row["unit"]] = row["images"]
    return chosen

"""What travels through Ray Data, one row a block: units on the way in, receipts on the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from labeler.labels.records import STATUSES
from labeler.labels.unit_work import WORK_DONE, UnitWork
from labeler.runs.sums import SUMS
from labeler.shards import Item, ShardEnd, Unit, skipped

ITEM = pa.struct(
    [
        pa.field("key", pa.string()),
        pa.field("index", pa.int64()),
        pa.field("uri", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("data", pa.large_binary()),
        pa.field("error", pa.string()),
        pa.field("removed", pa.bool_()),
        pa.field("kept", pa.map_(pa.string(), pa.string())),
    ]
)

# One schema for the three things a reader yields: a unit, the end of its shard, or the error that stopped it.
WORK = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # unit | end | error
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("unit", pa.int64()),
        pa.field("items", pa.list_(ITEM)),
        pa.field("units", pa.int64()),
        pa.field("images", pa.int64()),
        pa.field("read_s", pa.float64()),  # since the unit or end before
        pa.field("retries", pa.int64()),  # by the reader
        pa.field("skipped", pa.binary()),  # of an end, as shards.skipped writes it
        pa.field("error", pa.string()),
    ]
)


def work_block(work: Unit | ShardEnd, *, read_s: float = 0.0, retries: int = 0) -> pa.Table:
    """A unit or a shard's end as a one-row block, with what reading a unit took."""
    if isinstance(work, ShardEnd):
        end = {"kind": "end", "shard_id": work.shard_id, "units": work.units, "images": work.images}
        return _one_row({**end, "skipped": skipped.to_bytes(work.skipped)}, WORK)
    plain = ITEM.names[:-1]
    items = [{**{name: getattr(item, name) for name in plain}, "kept": dict(item.kept)} for item in work.items]
    took = {"read_s": read_s, "retries": retries}
    return _one_row({"kind": "unit", "shard_id": work.shard_id, "unit": work.unit, "items": items, **took}, WORK)


def error_block(shard_id: str, error: str) -> pa.Table:
    """A reader's last word about a shard it could not finish."""
    return _one_row({"kind": "error", "shard_id": shard_id, "error": error}, WORK)


def end_of(block: pa.Table) -> ShardEnd:
    """The end of a shard in a block of kind `end`."""
    row = block.to_pylist()[0]
    return ShardEnd(row["shard_id"], row["units"], row["images"], skipped.from_bytes(row["skipped"] or b""))


def unit_of(block: pa.Table) -> Unit:
    """The unit in a block of kind `unit`."""
    row = block.to_pylist()[0]
    items = tuple(Item(**{**item, "kept": dict(item["kept"] or ())}) for item in row["items"])
    return Unit(row["shard_id"], row["unit"], items)


def reading_of(block: pa.Table) -> UnitWork:
    """Return what reading the unit in a block of kind `unit` took."""
    return UnitWork(read_s=block["read_s"][0].as_py() or 0.0, retries=block["retries"][0].as_py() or 0)


@dataclass(frozen=True)
class Receipt:
    """Result of one piece of work; `error` is set when it is not committed."""

    kind: Literal["unit", "end", "error"]
    shard_id: str
    unit: int | None = None
    shard_images: int | None = None  # of kind `end`
    counts: Mapping[str, int] = field(default_factory=dict)  # images by status
    detections: int = 0
    masks: int = 0
    at_cap: int = 0
    label_bytes: int = 0
    write_s: float = 0.0
    work: UnitWork = field(default_factory=UnitWork)
    committed_at: float | None = None  # seconds since 1970, by the worker's clock
    written: bool = False  # False: another worker had committed it already
    engine: str = ""  # of the detector that labeled it, in words
    error: str | None = None
    unwritten: bool = False  # it was labeled, and storage did not take it
    sums: Mapping[str, Any] | None = None  # of what was written, as runs.sums.SUMS

    @property
    def images(self) -> int:
        return sum(self.counts.values())


RECEIPT = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("shard_id", pa.string(), nullable=False),
        pa.field("unit", pa.int64()),
        pa.field("shard_images", pa.int64()),
        pa.field("counts", pa.struct([pa.field(status, pa.int64()) for status in STATUSES])),
        pa.field("detections", pa.int64()),
        pa.field("masks", pa.int64()),
        pa.field("at_cap", pa.int64()),
        pa.field("label_bytes", pa.int64()),
        pa.field("write_s", pa.float64()),
        pa.field("work", WORK_DONE),
        pa.field("committed_at", pa.float64()),
        pa.field("written", pa.bool_()),
        pa.field("engine", pa.string()),
        pa.field("error", pa.string()),
        pa.field("unwritten", pa.bool_()),
        pa.field("sums", SUMS),
    ]
)


def receipt_block(receipt: Receipt) -> pa.Table:
    return _one_row(asdict(receipt), RECEIPT)


def receipts_of(block: pa.Table) -> Sequence[Receipt]:
    """The receipts in a batch, any number of rows."""
    return [_receipt(**row) for row in block.to_pylist()]


def _receipt(counts: Mapping[str, int | None], work: Mapping[str, Any], **plain: Any) -> Receipt:
    return Receipt(counts={status: n for status, n in counts.items() if n}, work=UnitWork(**work), **plain)


def _one_row(row: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names}], schema=schema)

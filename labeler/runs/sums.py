"""What a report adds up of each unit's rows: made where the rows are written or read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.unit_work import WORK_DONE, UnitWork
from labeler.runs.timeline import committed_at

SUMMED_COLUMNS = ("shard_id", "index", "status", "error", "detections")  # with masks: a damaged one is found here
SUMS = pa.struct(
    [
        pa.field("first", pa.int64(), nullable=False),
        pa.field("last", pa.int64(), nullable=False),
        pa.field("statuses", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("errors", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("categories", pa.map_(pa.int32(), pa.int64()), nullable=False),
        pa.field("at_cap", pa.int64(), nullable=False),
        pa.field("work", WORK_DONE, nullable=False),
        pa.field("committed_at", pa.float64()),
    ]
)


@dataclass(frozen=True)
class UnitSums:
    """Sums of one unit's rows.

    Attributes:
        first, last: indices in the shard of the first and the last row.
        statuses, errors: images by status, and by reason.
        categories: detections by category id.
        at_cap: images with as many detections as the run stores.
        work, committed_at: what its file says of how and when it was made.
        in_order: the indices are first..last, once each; what is not is never kept as a receipt.
    """

    first: int
    last: int
    statuses: Mapping[str, int]
    errors: Mapping[str, int]
    categories: Mapping[int, int]
    at_cap: int
    work: UnitWork = field(default_factory=UnitWork)
    committed_at: float | None = None
    in_order: bool = True

    def stored(self) -> dict[str, object]:
        """Return the values of SUMS."""
        return {name: getattr(self, name) for name in SUMS.names} | {"work": asdict(self.work)}


def sums_of(table: pa.Table, cap: int) -> UnitSums:
    """Add up a unit's rows.

    Args:
        table: one row or more, with SUMMED_COLUMNS and the metadata of the unit's file.
        cap: most detections that the run stores of an image; 0 for no cap.
    """
    indices = table["index"].to_numpy()
    column = DetectionsColumn(table)
    ids, counts = np.unique(column.category_ids, return_counts=True)
    return UnitSums(
        first=int(indices[0]),
        last=int(indices[-1]),
        statuses=dict(Counter(table["status"].to_pylist())),
        errors=dict(Counter(reason for reason in table["error"].to_pylist() if reason)),
        categories=dict(zip(ids.tolist(), counts.tolist(), strict=True)),
        at_cap=int((column.lengths == cap).sum()) if cap else 0,
        work=UnitWork.from_metadata(table.schema.metadata),
        committed_at=committed_at(table.schema.metadata),
        in_order=bool(np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices)))),
    )


@dataclass
class RunSums:
    """Sums over many units.

    Attributes:
        commits: (seconds since 1970, images) of each unit whose file says when it was made.
        extents: shard id -> (unit, first index, last index, whether these are all the indices between) of each unit.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    categories: Counter[int] = field(default_factory=Counter)
    at_cap: int = 0
    to_forget: int = 0
    work: UnitWork = field(default_factory=UnitWork)
    commits: list[tuple[float, int]] = field(default_factory=list)
    extents: dict[str, list[tuple[int, int, int, bool]]] = field(default_factory=dict)

    def add(self, shard_id: str, unit: int, sums: UnitSums, to_forget: int = 0) -> None:
        """Add one unit."""
        self.statuses.update(sums.statuses)
        self.errors.update(sums.errors)
        self.categories.update(sums.categories)
        self.at_cap += sums.at_cap
        self.work.add(sums.work)
        if sums.committed_at is not None:
            self.commits.append((sums.committed_at, sums.last - sums.first + 1))
        self.to_forget += to_forget
        self.extents.setdefault(shard_id, []).append((unit, sums.first, sums.last, sums.in_order))

    def add_stored(self, shard_ids: pa.Array, units: pa.Array, sums: pa.StructArray) -> None:
        """Add many units as they are stored.

        Args:
            shard_ids, units, sums: (units,); `sums` of type SUMS, not a slice.
        """
        for name, counter in (("statuses", self.statuses), ("errors", self.errors), ("categories", self.categories)):
            maps = sums.field(name)
            counted = pa.table({"of": maps.keys, "n": maps.items}).group_by("of").aggregate([("n", "sum")])
            counter.update(dict(zip(counted["of"].to_pylist(), counted["n_sum"].to_pylist(), strict=True)))
        self.at_cap += int(np.sum(sums.field("at_cap").to_numpy()))
        work = sums.field("work")
        self.work.add(UnitWork(**{name: pc.sum(work.field(name)).as_py() or 0 for name in WORK_DONE.names}))
        made = zip(*(sums.field(name).to_pylist() for name in ("committed_at", "first", "last")), strict=True)
        self.commits += [(moment, last - first + 1) for moment, first, last in made if moment is not None]
        places = (column.to_pylist() for column in (shard_ids, units, sums.field("first"), sums.field("last")))
        for shard_id, unit, first, last in zip(*places, strict=True):
            self.extents.setdefault(shard_id, []).append((unit, first, last, True))

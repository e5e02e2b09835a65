"""Rows of another run over the same images, found by the units of a run; in bounded memory whatever its order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from labeler import storage
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn, to_column
from labeler.labels.extensions import OF_IMAGES
from labeler.labels.records import BOXES, LABELED, LABELS
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.runs.rows import UnitKey, read_unit_file
from labeler.runs.snapshot import Snapshot

_PART_BYTES = 32 << 20  # of label files whose rows are in memory together
_MOST_PARTS = 256  # temporary files that are open at once
_PARTS_HELD = 3  # units are worked in about their order
_FLUSH_ROWS = 20_000
_63_BITS = (1 << 63) - 1
_AT = "at"  # the row of the first run that a row is for, counted over the run
_SPILLED = pa.schema(
    [
        *(LABELS.field(name) for name in ("index", "digest", "uri", "status")),
        pa.field("asked", OF_IMAGES["asked"]),
        LABELS.field("detections"),
        pa.field(_AT, pa.int64()),
    ]
)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageIdentity:
    """Identity of an image of the first run: enough to find it in another."""

    index: int
    digest: str | None
    uri: str


@dataclass(frozen=True)
class PartnerRow:
    """The row that another run has of an image.

    Attributes:
        detections: None where its status says that the image was not labeled.
        asked: as `records.Row`.
    """

    status: str
    detections: Detections | None
    asked: Sequence[int] | None = None


@dataclass
class Partner:
    """Another run. Rows are matched by digest; where one side has none, by (uri, index).

    Attributes:
        run: the other one.
        alone: its images that the first run does not have; None where plans are equal, so that there is none.
    """

    run: Run
    _rows: _SamePlan | _Spilled
    alone: int | None = None

    def find(self, unit: UnitKey, places: Sequence[ImageIdentity]) -> list[PartnerRow | None]:
        """Its rows of these images of a unit of the first run; None where it does not have one. Safe in threads."""
        return self._rows.find(unit, places)


def open_partner(first: Snapshot, other: Snapshot, pending: Iterable[UnitKey], folder: Path, *, masks: bool) -> Partner:
    """Make another run's rows findable.

    With an equal plan nothing is held: its units are read beside those of the first run. Else 24 bytes per image of the
    first run are held while the other is read once, and the rows that are needed are written to temporary files, from
    which about 32 MB of label files at a time come back.

    Args:
        pending: units of the first run that will be asked for.
        folder: for temporary files.

    Raises:
        Refused: the other run has none of the first one's images.
    """
    columns = None if masks else ("index", "digest", "uri", "status", "asked", BOXES)
    if _equal_plans(first, other):
        return Partner(other.run, _SamePlan(other, columns, masks))
    spill = _Spill(first, other, frozenset(pending), folder, columns, masks)
    spill.write()
    if not spill.met:
        raise Refused(
            f"run {storage.redact(other.run.uri)} has other images than run {storage.redact(first.run.uri)}: none "
            f"of its {spill.rows:,} images is there, by its bytes or by its place"
        )
    return Partner(other.run, _Spilled(spill), spill.alone)


def _equal_plans(first: Snapshot, other: Snapshot) -> bool:
    return first.plan == other.plan and first.progress.units == other.progress.units


def _founds(table: pa.Table, *, masks: bool) -> list[PartnerRow]:
    statuses = table["status"].to_pylist()
    asked = table["asked"].to_pylist() if "asked" in table.schema.names else [None] * len(table)
    rows = DetectionsColumn(table).per_row(masks=masks)
    return [
        PartnerRow(status, row if status in LABELED else None, ids)
        for status, row, ids in zip(statuses, rows, asked, strict=True)
    ]


@dataclass(frozen=True)
class _SamePlan:
    other: Snapshot
    columns: tuple[str, ...] | None
    masks: bool

    def find(self, unit: UnitKey, places: Sequence[ImageIdentity]) -> list[PartnerRow | None]:
        table = read_unit_file(self.other.progress.unit_uri(*unit), self.columns)
        founds = _founds(table, masks=self.masks)
        theirs = zip(*(table[name].to_pylist() for name in ("index", "digest", "uri")), founds, strict=True)
        by_index = {index: (ImageIdentity(index, digest, uri), found) for index, digest, uri, found in theirs}
        return [
            by_index[place.index][1] if place.index in by_index and _same(place, by_index[place.index][0]) else None
            for place in places
        ]


def _same(ours: ImageIdentity, theirs: ImageIdentity) -> bool:
    if ours.digest is not None and theirs.digest is not None:
        return ours.digest == theirs.digest
    return (ours.uri, ours.index) == (theirs.uri, theirs.index)


class _Sorted:
    """Keys of the first run's rows, sorted; equal ones stand together."""

    def __init__(self, keys: Ints, rows: Ints) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], rows[order].astype(np.uint32)

    def find(self, keys: Ints) -> tuple[Ints, Ints]:
        """(which of `keys`, row of the first run) for each that is there; a key may have several rows."""
        start, stop = (np.searchsorted(self._keys, keys, side) for side in ("left", "right"))
        counts = stop - start
        which = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._rows[start[which] + within].astype(np.int64)


@dataclass
class _Spill:
    """Writes the rows of `other` that belong to pending units of `first` to a file per stretch of units."""

    first: Snapshot
    other: Snapshot
    pending: frozenset[UnitKey]
    folder: Path
    columns: tuple[str, ...] | None
    masks: bool
    rows: int = 0
    alone: int = 0
    # Of each unit of the first run: the row that it begins with, counted over the run, and that row's index.
    starts: dict[UnitKey, tuple[int, int]] = field(default_factory=dict)
    parts: Mapping[UnitKey, int] = field(default_factory=dict)
    met: bool = False

    def write(self) -> None:
        by_digest, by_place, with_digest = self._index()
        part_of_row = self._cut(len(with_digest))
        with ExitStack() as stack:
            writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
            waiting: list[pa.Table] = []
            for table in self.other.tables(self.columns):
                self.rows += len(table)
                which, row = _matches(table, by_digest, by_place, with_digest)
                self.alone += len(table) - len(np.unique(which))
                self.met = self.met or len(which) > 0
                needed = part_of_row[row] >= 0
                waiting.append(self._spilled(table.take(which[needed]), row[needed]))
                if sum(map(len, waiting)) >= _FLUSH_ROWS:
                    self._flush(waiting, part_of_row, writers, stack)
                    waiting = []
            self._flush(waiting, part_of_row, writers, stack)

    def _index(self) -> tuple[_Sorted, _Sorted, npt.NDArray[np.bool_]]:
        """(rows by digest, rows by place, (rows,) whether a row has a digest)."""
        digests, places, total = [], [], 0
        for unit, table in self.first.units(("digest", "uri", "index")):
            self.starts[unit] = total, table["index"][0].as_py()
            total += len(table)
            digests.append(_digest_keys(table))
            places.append(_place_keys(table))
        keys = np.concatenate([np.zeros(0, np.int64), *digests])
        known = keys != 0
        by_digest = _Sorted(keys[known], np.flatnonzero(known))
        return by_digest, _Sorted(np.concatenate([np.zeros(0, np.int64), *places]), np.arange(total)), known

    def _cut(self, total: int) -> npt.NDArray[np.int16]:
        """(rows of the first run,) the file for each; -1 for those of units that are not pending."""
        units = [unit for unit in self.starts if unit in self.pending]
        folders = [storage.join(folder, layout.LABELS_FOLDER) for folder, _ in self.other.progress.folders]
        size = sum(info.size for folder in folders for info in storage.list_objects(folder))
        parts = max(1, min(_MOST_PARTS, -(-size // _PART_BYTES), len(units)))
        self.parts = {unit: place * parts // len(units) for place, unit in enumerate(units)}
        of_unit = [self.parts.get(unit, -1) for unit in self.starts]
        bounds = np.append(np.array([row for row, _ in self.starts.values()], np.int64), total)
        return np.repeat(np.array(of_unit, np.int16), np.diff(bounds))

    def _flush(
        self,
        waiting: Sequence[pa.Table],
        part_of_row: npt.NDArray[np.int16],
        writers: dict[int, pa.ipc.RecordBatchStreamWriter],
        stack: ExitStack,
    ) -> None:
        if not waiting:
            return
        table = pa.concat_tables(waiting)
        part = part_of_row[table[_AT].to_numpy()]
        for number in np.unique(part).tolist():
            if number not in writers:
                sink = pa.ipc.new_stream(str(self.file(number)), _SPILLED)
                writers[number] = stack.enter_context(sink)
            writers[number].write_table(table.take(np.flatnonzero(part == number)))

    def _spilled(self, table: pa.Table, at: Ints) -> pa.Table:
        rows = DetectionsColumn(table).per_row(masks=self.masks)
        asked = table["asked"] if "asked" in table.schema.names else pa.nulls(len(table), OF_IMAGES["asked"])
        plain = [table[name] for name in _SPILLED.names[:-3]]
        columns = [*plain, asked, to_column(rows), pa.array(at, pa.int64())]
        return pa.Table.from_arrays(columns, schema=_SPILLED)

    def nothing(self) -> pa.Table:
        return _SPILLED.empty_table()

    def file(self, part: int) -> Path:
        return self.folder / f"{self.other.run.manifest.run_id}-{part:03d}.arrow"


def _digest_keys(table: pa.Table) -> Ints:
    """(rows,) the last 63 bits of each digest, never 0; 0 where there is none."""
    keys = [0 if digest is None else int(digest[-16:], 16) & _63_BITS or 1 for digest in table["digest"].to_pylist()]
    return np.array(keys, np.int64)


def _place_keys(table: pa.Table) -> Ints:
    """(rows,) of this process alone: Python's hashes of text differ from process to process."""
    pairs = zip(table["uri"].to_pylist(), table["index"].to_pylist(), strict=True)
    return np.array([hash(pair) for pair in pairs], np.int64)


def _matches(
    table: pa.Table, by_digest: _Sorted, by_place: _Sorted, with_digest: npt.NDArray[np.bool_]
) -> tuple[Ints, Ints]:
    """(rows of the table, the rows of the first run that they may be of)."""
    keys = _digest_keys(table)
    known = np.flatnonzero(keys)
    which, row = by_digest.find(keys[known])
    at_place, place_row = by_place.find(_place_keys(table))
    either_has_none = (keys[at_place] == 0) | ~with_digest[place_row]
    return (
        np.concatenate([known[which], at_place[either_has_none]]),
        np.concatenate([row, place_row[either_has_none]]),
    )


class _Spilled:
    """Rows read back, a stretch of units at a time."""

    def __init__(self, spill: _Spill) -> None:
        self._spill, self._lock = spill, threading.Lock()
        self._held: OrderedDict[int, tuple[dict[int, list[int]], pa.Table]] = OrderedDict()

    def find(self, unit: UnitKey, places: Sequence[ImageIdentity]) -> list[PartnerRow | None]:
        start, first_index = self._spill.starts[unit]
        rows, table = self._part(self._spill.parts[unit])
        chosen = [_row_of(table, rows.get(start + place.index - first_index, ()), place) for place in places]
        present = [row for row in chosen if row is not None]
        founds = iter(_founds(table.take(present), masks=self._spill.masks) if present else ())
        return [None if row is None else next(founds) for row in chosen]

    def _part(self, part: int) -> tuple[dict[int, list[int]], pa.Table]:
        """(row of the first run -> rows of the table, the table)."""
        with self._lock:
            if part not in self._held:
                self._held[part] = self._load(part)
                if len(self._held) > _PARTS_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(part)
            return self._held[part]

    def _load(self, part: int) -> tuple[dict[int, list[int]], pa.Table]:
        path = self._spill.file(part)
        if not path.exists():
            return {}, self._spill.nothing()
        with pa.ipc.open_stream(str(path)) as reader:
            table = reader.read_all()
        rows: dict[int, list[int]] = {}
        for row, at in enumerate(table[_AT].to_pylist()):
            rows.setdefault(at, []).append(row)
        return rows, table


def _row_of(table: pa.Table, rows: Iterable[int], place: ImageIdentity) -> int | None:
    """The row of the image: keys were cut, so that others may be here. Of equal images, the first that was labeled."""
    failed = None
    for row in rows:
        index, digest, uri, status = (table[name][row].as_py() for name in ("index", "digest", "uri", "status"))
        if _same(place, ImageIdentity(index, digest, uri)):
            if status in LABELED:
                return row
            failed = row if failed is None else failed
    return failed

"""Join the rows of two runs by the digest of their images, in bounded memory whatever the order on either side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from labeler import storage
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DETECTIONS, DetectionsColumn, to_column
from labeler.labels.records import BOXES, LABELED
from labeler.runs import Snapshot, UnitKey, layout

_PART_BYTES = 32 << 20  # of label files that come together in one part
_MAX_PARTS = 512  # files open at once, for one side
_FLUSH_ROWS = 20_000
_SPILLED = pa.schema(
    [
        pa.field("digest", pa.string()),
        pa.field("unit", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("labeled", pa.bool_()),
        pa.field("detections", DETECTIONS),
        pa.field("asked", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class RunSide:
    """One of the two runs, and which of its detections take part.

    Attributes:
        ids: of its categories -> in `asked` of pairs.
    """

    snapshot: Snapshot
    select: Callable[[Detections], Detections]
    ids: Mapping[int, int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return what is read of its rows."""
        return ("digest", "status", BOXES, *(("asked",) if "asked" in self.snapshot.run.columns else ()))

    def asked(self, ids: Sequence[int] | None) -> list[int] | None:
        """The names that an image was asked for, of those that take part; None for all."""
        if ids is None or "asked" not in self.snapshot.run.columns:  # a column of that name may be the user's
            return None
        return [self.ids[id_] for id_ in ids if id_ in self.ids]

    def label_bytes(self) -> int:
        folders = [storage.join(folder, layout.LABELS_FOLDER) for folder, _ in self.snapshot.progress.folders]
        return sum(info.size for folder in folders for info in storage.list_objects(folder))


@dataclass(frozen=True)
class RowPlace:
    """The place of a row."""

    unit: int  # place in `Join.units`
    row: int


@dataclass(frozen=True)
class Pair:
    """One image in both runs; the detections of a side that could not label it are None.

    Attributes:
        asked: the ids that each side was asked for in it; None for all.
    """

    places: tuple[RowPlace, RowPlace]
    detections: tuple[Detections | None, Detections | None]
    asked: tuple[list[int] | None, list[int] | None] = (None, None)


_Loaded = tuple[RowPlace, Detections | None, list[int] | None]


@dataclass
class Join:
    """Iterate over it once; the counts below are whole after that.

    Attributes:
        units: of each side, in the order of its run.
        rows: of each side.
        repeated: rows of each side whose image came before (equal bytes have equal labels), not paired.
        without_digest: rows of each side whose bytes could not be read, not paired.
        alone: images of each side that the other has not.
    """

    sides: tuple[RunSide, RunSide]
    units: tuple[list[UnitKey], list[UnitKey]] = field(default_factory=lambda: ([], []))
    rows: list[int] = field(default_factory=lambda: [0, 0])
    repeated: list[int] = field(default_factory=lambda: [0, 0])
    without_digest: list[int] = field(default_factory=lambda: [0, 0])
    alone: list[int] = field(default_factory=lambda: [0, 0])

    def __iter__(self) -> Iterator[Pair]:
        """Both runs are written to temporary files, cut into parts by digest; then part meets part."""
        whole = sum(side.label_bytes() for side in self.sides)
        parts = max(1, min(_MAX_PARTS, -(-whole // _PART_BYTES)))
        with tempfile.TemporaryDirectory() as folder:
            for which in (0, 1):
                self._spill(which, Path(folder), parts)
            for part in range(parts):
                yield from self._meet(Path(folder), part)

    def _spill(self, which: int, folder: Path, parts: int) -> None:
        side = self.sides[which]
        with ExitStack() as stack:
            writers = [
                stack.enter_context(pa.ipc.new_stream(str(_part_file(folder, which, part)), _SPILLED))
                for part in range(parts)
            ]
            waiting: list[pa.Table] = []
            for unit, table in side.snapshot.units(side.columns):
                waiting.append(_spilled(table, len(self.units[which]), side))
                self.units[which].append(unit)
                self.rows[which] += table.num_rows
                if sum(map(len, waiting)) >= _FLUSH_ROWS:
                    self._flush(which, waiting, writers)
                    waiting = []
            self._flush(which, waiting, writers)

    def _flush(
        self, which: int, waiting: Sequence[pa.Table], writers: Sequence[pa.ipc.RecordBatchStreamWriter]
    ) -> None:
        if not waiting:
            return
        table = pa.concat_tables(waiting)
        digests = table["digest"].to_pylist()
        self.without_digest[which] += digests.count(None)
        part = np.array([-1 if digest is None else int(digest[:8], 16) % len(writers) for digest in digests])
        for number, writer in enumerate(writers):
            rows = np.flatnonzero(part == number)
            if len(rows):
                writer.write_table(table.take(rows))

    def _meet(self, folder: Path, part: int) -> Iterator[Pair]:
        first, second = (self._load(folder, which, part) for which in (0, 1))
        for digest, (place, detections, asked) in first.items():
            if digest in second:
                other_place, others, other_asked = second.pop(digest)
                yield Pair((place, other_place), (detections, others), (asked, other_asked))
            else:
                self.alone[0] += 1
        self.alone[1] += len(second)

    def _load(self, folder: Path, which: int, part: int) -> dict[str, _Loaded]:
        path = _part_file(folder, which, part)
        with pa.ipc.open_stream(str(path)) as reader:
            table = reader.read_all()
        path.unlink()
        found: dict[str, _Loaded] = {}
        rows = table.drop_columns(["detections"]).to_pylist()
        for row, detections in zip(rows, DetectionsColumn(table).per_row(masks=False), strict=True):
            if row["digest"] in found:
                self.repeated[which] += 1
            labeled = detections if row["labeled"] else None
            found.setdefault(row["digest"], (RowPlace(row["unit"], row["row"]), labeled, row["asked"]))
        return found


def _part_file(folder: Path, which: int, part: int) -> Path:
    return folder / f"{which}-{part:03d}.arrow"


def _spilled(table: pa.Table, unit: int, side: RunSide) -> pa.Table:
    """A unit's rows with only the detections that take part: the others are most of a run."""
    asked = table["asked"].to_pylist() if "asked" in table.schema.names else [None] * len(table)
    chosen = [side.select(detections) for detections in DetectionsColumn(table).per_row(masks=False)]
    columns = [
        table["digest"],
        pa.array(np.full(len(chosen), unit), pa.int64()),
        pa.array(np.arange(len(chosen)), pa.int64()),
        pa.array([status in LABELED for status in table["status"].to_pylist()]),
        to_column(chosen),
        pa.array(map(side.asked, asked), pa.list_(pa.int32())),
    ]
    return pa.Table.from_arrays(columns, schema=_SPILLED)

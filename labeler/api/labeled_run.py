"""A run as an object: its rows one by one, as Arrow tables, as data frames, as datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.errors import Refused
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import Row, complete_table, places_of, schema, table_to_rows, widened
from labeler.runs import Run, Snapshot, read_snapshot, require_run
from labeler.runs.erasure.excluded import Excluded, read_excluded
from labeler.runs.report import Report, build_report

if TYPE_CHECKING:
    from labeler.api.torch_images import LabeledImages
    from labeler.vocabulary import Vocabulary

_NEEDED = ("image_key", "digest", "status")  # to hide images that are to be forgotten


@dataclass(frozen=True)
class ShownRows:
    """Rules for showing the rows of a unit file. Plain values, so that Ray can carry it to its tasks.

    Attributes:
        keep, optional: the user's columns of the run, and its optional ones.
        columns: what is shown; None for all.
    """

    keep: tuple[str, ...]
    optional: tuple[str, ...]
    columns: Sequence[str] | None
    excluded: Excluded

    @property
    def read(self) -> list[str] | None:
        """The columns to read of a unit file; None for all."""
        if self.columns is None or self.optional or len(self.excluded):  # a file may lack optional columns
            return None
        return list(dict.fromkeys([*self.columns, *_NEEDED]))

    def of(self, table: pa.Table, prefix: str) -> pa.Table:
        """Return the rows of one unit file; `prefix` is what file names of its shard have before their key."""
        whole = widened(table, self.keep, self.optional) if self.optional else table
        listed = pa.array(self.excluded.of_rows(whole, prefix), pa.bool_()) if len(self.excluded) else None
        if listed is not None and pc.any(listed).as_py():  # labeled after somebody asked to forget them
            places, others = places_of(whole.filter(listed)), whole.filter(pc.invert(listed))
            whole = complete_table(places, self.keep, others, self.optional)
        return whole if self.columns is None else whole.select(self.columns)


def open_run(uri: str | PathLike[str]) -> LabeledRun:
    """Open the run in a folder: the output of `label`, or a run derived from one.

    Args:
        uri: a local path or an object-storage URI.

    Raises:
        Refused: there is no run.
        StorageError: storage cannot be read.
    """
    return LabeledRun(require_run(storage.absolute_uri(str(uri))))


class LabeledRun:
    """A run folder, as it was when this object was made or last refreshed.

    Rows come in the order of the plan, each image once. A forgotten image has the status `removed`. Rows are streamed
    unless a method says that it holds everything.

    Attributes:
        run: what the package's other functions take.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._snapshot: Snapshot | None = None

    def __repr__(self) -> str:
        return f"LabeledRun({storage.redact(self.uri)!r})"

    @property
    def uri(self) -> str:
        """The folder."""
        return self.run.uri

    @property
    def id(self) -> str:
        """The run's id, which its files name."""
        return self.run.manifest.run_id

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The categories that were looked for."""
        return self.run.vocabulary()

    @property
    def snapshot(self) -> Snapshot:
        """The plan and what is committed of it; listed once, see `refresh`."""
        if self._snapshot is None:
            self.run.s3_rules().apply()
            self._snapshot = read_snapshot(self.run)
        return self._snapshot

    def refresh(self) -> LabeledRun:
        """List again what is committed. Returns this object."""
        self._snapshot = None
        return self

    @property
    def is_complete(self) -> bool:
        """Return whether every planned image has its row."""
        return self.snapshot.is_complete

    def report(self) -> Report:
        """Counts of images by status, detections, categories and errors."""
        return build_report(self.snapshot)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield one Arrow table per unit: a row per image, with the list column `detections`.

        Args:
            columns: the columns to read; None for all.

        Raises:
            Refused: the run has no such column.
            StorageError: a file cannot be read, or is damaged.
        """
        shown, snapshot = self.shown(columns), self.snapshot
        return (shown.of(table, snapshot.prefixes[shard_id]) for (shard_id, _), table in snapshot.units(shown.read))

    def shown(self, columns: Sequence[str] | None = None) -> ShownRows:
        """Return how a unit file's rows are shown: these columns, and without what is to be forgotten. Raises: as
        `tables`.
        """
        return ShownRows(self.run.keep, self.run.columns, self._checked(columns), read_excluded(self.run))

    def _checked(self, columns: Sequence[str] | None) -> list[str] | None:
        if columns is None:
            return None
        known = schema(self.run.keep, self.run.columns).names
        if len(set(columns)) < len(columns):
            raise Refused(f"columns {', '.join(columns)}: one of them is there twice")
        if unknown := [name for name in columns if name not in known]:
            raise Refused(f"run {storage.redact(self.uri)} has no column {unknown[0]!r}; it has {', '.join(known)}")
        return list(columns)

    def rows(self, *, status: str | Sequence[str] | None = None) -> Iterator[Row]:
        """Yield the rows one by one.

        Args:
            status: only images with this status, or with one of these.
        """
        wanted = [status] if isinstance(status, str) else status
        for table in self.tables():
            chosen = table
            if wanted is not None:
                chosen = table.filter(pc.is_in(table["status"], value_set=pa.array(wanted, pa.string())))
            yield from table_to_rows(chosen, self.run.keep)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows as one table, a row per image. Holds them in memory.

        Args:
            columns: as of `tables`.
        """
        whole = schema(self.run.keep, self.run.columns)
        chosen = self._checked(columns)
        wanted = whole.names if chosen is None else chosen
        tables = list(self.tables(wanted))
        empty = whole.empty_table().select(wanted)
        return pa.concat_tables([empty, *tables], promote_options="permissive").combine_chunks()

    def boxes(self, *, threshold: float = 0.0) -> pa.Table:
        """Return all boxes as one flat table, a row per box. Holds them in memory, without masks.

        Columns: image_key, shard_id, index, uri, category_id (int32), category, score (float32; null for a box without
        a score, which passes every threshold), and x_min, y_min, x_max, y_max (float32, pixels of the image with EXIF
        orientation applied).

        Args:
            threshold: boxes with at least this score.
        """
        if not 0 <= threshold <= 1:
            raise Refused(f"a threshold is a score from 0 to 1, got {threshold}")
        names = {category.id: category.name for category in self.vocabulary.categories}
        columns = ("image_key", "shard_id", "index", "uri", "detections")
        parts = [_flat(table, names, threshold) for table in self.tables(columns)]
        return pa.concat_tables(parts).combine_chunks() if parts else _BOXES.empty_table()

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """Return all rows as a pandas DataFrame, a row per image. Holds them in memory. See `boxes` for one per box."""
        return self.to_arrow(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> Any:
        """Return all rows as a polars DataFrame, a row per image. Holds them in memory.

        Raises:
            Refused: polars is not installed.
        """
        try:
            import polars
        except ImportError:
            raise Refused("to_polars needs the package polars: pip install polars") from None
        return polars.from_arrow(self.to_arrow(columns))

    def to_ray_dataset(self, columns: Sequence[str] | None = None) -> Any:
        """Return the rows as a Ray Dataset, a row per image; read by its tasks, one unit file each.

        Ray must be connected, or is started by Ray itself. Workers read the run with their own credentials.
        """
        from labeler.api.ray_dataset import dataset_of

        return dataset_of(self, columns)

    def to_torch(self, *, threshold: float = 0.3) -> LabeledImages:
        """Return a map-style torch Dataset of labeled images and their boxes; see `LabeledImages`.

        Args:
            threshold: boxes with at least this score.
        """
        from labeler.api.torch_images import LabeledImages

        return LabeledImages(self, threshold=threshold)


_BOXES = pa.schema(
    [
        ("image_key", pa.string()),
        ("shard_id", pa.string()),
        ("index", pa.int64()),
        ("uri", pa.string()),
        ("category_id", pa.int32()),
        ("category", pa.string()),
        ("score", pa.float32()),
        *((side, pa.float32()) for side in ("x_min", "y_min", "x_max", "y_max")),
    ]
)


def _flat(table: pa.Table, names: Mapping[int, str], threshold: float) -> pa.Table:
    column = DetectionsColumn(table)
    found = column.detections
    kept = found.scores >= np.float32(threshold)
    of_image = table.drop_columns(["detections"]).take(pa.array(column.rows[kept]))
    ids, scores, boxes = found.category_ids[kept], found.scores[kept], found.boxes[kept]
    category = [names[int(id_)] for id_ in ids]
    return pa.table([*of_image.columns, pa.array(ids), pa.array(category, pa.string()),
                     pa.array(scores, mask=found.unscored[kept]),
                     *(pa.array(side) for side in np.ascontiguousarray(boxes.T))], schema=_BOXES)  # fmt: skip

"""Making some rows of a committed unit anew: which of its images, and what is taken over as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.errors import LabelerError
from labeler.records import parquet_to_table
from labeler.runs import layout
from labeler.shards import Unit


@dataclass(frozen=True)
class Redo:
    """Rows with one of these statuses are made anew; plain values, so that Ray can carry it to the workers.

    Attributes:
        folders: of the run that the new one derives from, and of those that that one derives from.
    """

    folders: tuple[str, ...]
    statuses: tuple[str, ...]

    def split_off(self, unit: Unit) -> tuple[Unit, pa.Table]:
        """The unit with only the images to do, and the rows of the others.

        Raises:
            LabelerError: an image is not where its row says.
        """
        rows = parquet_to_table(self._read(unit))
        again = pc.is_in(rows["status"], value_set=pa.array(self.statuses, pa.string()))
        keys = dict(zip(*(rows.filter(again)[name].to_pylist() for name in ("index", "image_key")), strict=True))
        items = tuple(item for item in unit.items if keys.get(item.index) == item.key)
        if len(items) < len(keys):
            raise LabelerError(
                f"unit {unit.unit} of shard {unit.shard_id} does not hold the images that its rows name any more"
            )
        return replace(unit, items=items), rows.filter(pc.invert(again))

    def _read(self, unit: Unit) -> bytes:
        relative = layout.unit_file(unit.shard_id, unit.unit)
        *nearer, root = (storage.join(folder, relative) for folder in self.folders)
        return storage.read_bytes(next((uri for uri in nearer if storage.head(uri) is not None), root))

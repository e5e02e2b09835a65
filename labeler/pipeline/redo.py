"""Redo some rows of a committed unit and copy the others unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.errors import LabelerError
from labeler.labels.records import ALL_NAMES, Row, table_to_rows
from labeler.labels.rescored import split_off_scores, with_second_scores
from labeler.labels.revised import CUT, Change
from labeler.runs import layout, read_unit_file
from labeler.shards import Unit

MASKS, SECOND_SCORES = "masks", "second scores"  # what stored boxes can get


@dataclass(frozen=True)
class Todo:
    """The images of a unit that need labeling.

    Attributes:
        others: the rows of all its other images.
        earlier: by index, rows of the images to do of which something stays.
        change: made to those; None: all stays but what is added, whatever the image's new status is.
        adds: "masks" or "second scores", of the images to do; without `change`.
    """

    unit: Unit
    others: pa.Table | None = None
    earlier: Mapping[int, Row] = field(default_factory=dict)
    change: Change | None = None
    adds: str = MASKS

    def settle(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of the unit's images, of what was found in them now and of what stays."""
        added = _with_masks if self.adds == MASKS else with_second_scores
        settle = added if self.change is None else self.change.apply
        return [settle(row, self.earlier[row.index]) if row.index in self.earlier else row for row in rows]


def _with_masks(row: Row, earlier: Row) -> Row:
    """The earlier row with masks; marks about its boxes stay, and those about masks follow the new ones."""
    before, scores = split_off_scores(earlier.error)
    marks = [mark for mark in (CUT, ALL_NAMES) if mark in before]
    if row.status == "labeled":
        return replace(earlier, detections=row.detections, error=_joined(*marks, row.error, scores))
    return replace(earlier, error=_joined(*marks, f"no masks: {row.error or row.status}", scores))


def _joined(*reasons: str | None) -> str | None:
    return "; ".join(reason for reason in reasons if reason) or None


@dataclass(frozen=True)
class Redo:
    """Rows with one of these statuses are redone; plain values, so that Ray can carry it to the workers.

    Attributes:
        folders: of the run that the new one derives from, and of those that that one derives from.
        keep_detections: they get something more (`adds`); nothing is detected.
        change: of a changed vocabulary: made to the rows besides what is detected now.
        adds: as of `Todo`.
    """

    folders: tuple[str, ...]
    statuses: tuple[str, ...]
    keep_detections: bool = False
    change: Change | None = None
    adds: str = MASKS

    def of(self, unit: Unit, keep: Sequence[str] = ()) -> Todo:
        """Return what to do of a unit that was read again.

        Args:
            keep: as of `table_to_rows`.

        Raises:
            LabelerError: an image is not where its row says.
        """
        rows = read_unit_file(self._uri(unit))
        again = pc.is_in(rows["status"], value_set=pa.array(self.statuses, pa.string()))
        earlier = {row.index: row for row in table_to_rows(rows.filter(again), keep)}
        keys = {index: row.image_key for index, row in earlier.items()}
        items = tuple(item for item in unit.items if keys.get(item.index) == item.key)
        if len(items) < len(earlier):
            raise LabelerError(
                f"unit {unit.unit} of shard {unit.shard_id} does not hold the images that its rows name any more"
            )
        others = rows.filter(pc.invert(again))
        if self.change is not None:
            return Todo(replace(unit, items=items), others, earlier, self.change)
        if not self.keep_detections:
            return Todo(replace(unit, items=items), others)
        items = tuple(replace(item, found=earlier[item.index].detections) for item in items)
        return Todo(replace(unit, items=items), others, earlier, adds=self.adds)

    def _uri(self, unit: Unit) -> str:
        relative = layout.unit_file(unit.shard_id, unit.unit)
        *nearer, root = (storage.join(folder, relative) for folder in self.folders)
        return next((uri for uri in nearer if storage.head(uri) is not None), root)

"""The detections of many rows as one Arrow column, to and from arrays; masks only where they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeler.labels import extensions
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask

MASK = pa.struct(
    [
        pa.field("size", pa.list_(pa.int32())),  # height, width of the upright image
        pa.field("counts", pa.binary()),  # COCO's compressed run lengths
        pa.field("quality", pa.float32()),  # the IoU that the model expects of it
    ]
)
DETECTION = pa.struct(
    [
        pa.field("category_id", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("x_min", pa.float32(), nullable=False),
        pa.field("y_min", pa.float32(), nullable=False),
        pa.field("x_max", pa.float32(), nullable=False),
        pa.field("y_max", pa.float32(), nullable=False),
        pa.field("chunk", pa.int16(), nullable=False),
        pa.field("mask", MASK),
    ]
)
_BARE = list(DETECTION)[:-1]  # without a mask
_MASK_1 = pa.struct(list(MASK)[:2])  # schema version 1: without a quality
SIDES = ("x_min", "y_min", "x_max", "y_max")


def detections_type(columns: Sequence[str] = ()) -> pa.DataType:
    """Return the type of the column, with these optional columns of detections; names of images'
    columns are skipped.
    """
    struct = pa.struct([*DETECTION, *extensions.detection_fields(columns)])
    return pa.list_(pa.field("element", struct, nullable=False))


DETECTIONS = detections_type()


def is_detections(found: pa.DataType) -> bool:
    """Return whether a column of this type can be read: of any schema version, with or without masks or optional
    columns.
    """
    if not pa.types.is_list(found) or not pa.types.is_struct(found.value_type):
        return False
    fields = {field.name: field.type for field in found.value_type}
    mask, optional = fields.pop("mask", MASK), [name for name in fields if name in extensions.OF_DETECTIONS]
    expected = pa.struct([*_BARE, *extensions.detection_fields(optional)])
    plain = pa.struct([pa.field(field.name, fields[field.name], field.name in optional) for field in found.value_type
                       if field.name in fields])  # fmt: skip
    return bool(plain.equals(expected)) and (mask.equals(MASK) or mask.equals(_MASK_1))


def has_masks(found: pa.DataType) -> bool:
    """Return whether a column of this type has the field for masks."""
    return bool(found.value_type.get_field_index("mask") >= 0)


class DetectionsColumn:
    """The column `detections` of a labels table, or of a slice of one.

    Attributes:
        lengths: (rows,) int64, detections of each row.
    """

    def __init__(self, table: pa.Table) -> None:
        self.lengths: npt.NDArray[np.int64] = pc.list_value_length(table["detections"]).to_numpy().astype(np.int64)
        self._values = pc.list_flatten(table["detections"])  # of a sliced table no more than its rows

    def _field(self, name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = pc.struct_field(self._values, name).to_numpy()
        return values

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """(n,) the row of each detection."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def category_ids(self) -> npt.NDArray[np.int32]:
        """(n,) of all detections, one row's after the other's."""
        return self._field("category_id")

    @cached_property
    def detections(self) -> Detections:
        """(n,) all detections, one row's after the other's, without masks."""
        boxes = np.stack([self._field(side) for side in SIDES], 1)
        plain = Detections.of(boxes, self._field("score"), self.category_ids, self._field("chunk"))
        names = [field.name for field in self._values.type if field.name in extensions.OF_DETECTIONS]
        if not names:
            return plain
        more = {name: extensions.from_arrow(name, pc.struct_field(self._values, name)) for name in names}
        return replace(plain, more=more)

    def masks(self, chosen: npt.NDArray[np.bool_] | None = None) -> list[Mask | None] | None:
        """Return the mask of each detection, or of each chosen one of the n; None where none of them has one."""
        found = pc.struct_field(self._values, "mask")
        found = found if chosen is None else found.filter(pa.array(chosen))
        return [_mask_of(value) for value in found.to_pylist()] if found.null_count < len(found) else None

    def per_row(self, *, masks: bool) -> list[Detections]:
        """Return the detections of each row. With `masks` they have them, which takes many times as long as all the
        rest.
        """
        everything = self.detections
        if masks and (found := self.masks()) is not None:
            everything = everything.with_masks(found)
        ends = np.cumsum(self.lengths)
        return [everything[start:stop] for start, stop in zip(ends - self.lengths, ends, strict=True)]


def with_field(table: pa.Table, name: str, values: npt.NDArray[np.float32]) -> pa.Table:
    """Return rows whose detections have a field of numbers set: one that they have, or another.

    Args:
        values: (n,) of all detections, one row's after the other's.
    """
    flat = pc.list_flatten(table["detections"]).combine_chunks()
    columns = {field.name: (field, pc.struct_field(flat, field.name)) for field in flat.type}
    columns[name] = pa.field(name, pa.float32(), nullable=False), pa.array(values, pa.float32())
    fields, arrays = zip(*columns.values(), strict=True)
    structs = pa.StructArray.from_arrays(arrays, fields=fields)
    lengths = pc.list_value_length(table["detections"]).to_numpy()
    offsets = pa.array(np.append(0, np.cumsum(lengths, dtype=np.int32)), pa.int32())
    kind = pa.list_(pa.field("element", structs.type, nullable=False))
    made = pa.ListArray.from_arrays(offsets, structs, type=kind)
    place = table.schema.get_field_index("detections")
    return table.set_column(place, pa.field("detections", kind, nullable=False), made)


def to_column(per_row: Sequence[Detections], columns: Sequence[str] = ()) -> pa.ListArray:
    """Return the column of the detections of each row; nothing is inferred, so empty lists are safe.

    Args:
        columns: the optional ones to write; others that the detections have are excluded.
    """
    everything, kind = Detections.concat(per_row), detections_type(columns)
    offsets = np.array([0, *itertools.accumulate(map(len, per_row))], np.int32)
    boxes = np.ascontiguousarray(everything.boxes.T)  # (4, n)
    structs = pa.StructArray.from_arrays(
        [
            pa.array(everything.category_ids, pa.int32()),
            pa.array(everything.scores, pa.float32()),
            *(pa.array(side, pa.float32()) for side in boxes),
            pa.array(everything.chunks, pa.int16()),
            _mask_column(everything),
            *(_optional_column(everything, field.name) for field in extensions.detection_fields(columns)),
        ],
        fields=list(kind.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=kind)


def _optional_column(detections: Detections, name: str) -> pa.Array:
    return extensions.to_arrow(name, detections.more.get(name, extensions.absent(name, len(detections))))


def mask_value(mask: Mask) -> dict[str, Any]:
    """Return a mask as a value of the type MASK."""
    return {**mask.rle, "quality": mask.quality}


def _mask_column(detections: Detections) -> pa.StructArray:
    if detections.masks is None:
        return pa.nulls(len(detections), MASK)
    return pa.array([None if mask is None else mask_value(mask) for mask in detections.masks], MASK)


def _mask_of(value: dict[str, Any] | None) -> Mask | None:
    if value is None:
        return None
    height, width = value["size"]
    return Mask(height, width, value["counts"], value.get("quality"))  # schema version 1 has no quality

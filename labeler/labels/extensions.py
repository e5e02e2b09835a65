"""The optional columns of a run's rows, declared once: their types, what null means, and the schema version they need.

A run has those that its manifest names; most have none, and their files are as if this module did not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PLAIN_VERSION = 2  # of rows without any of them; 2: masks have a quality
EXTENDED_VERSION = 3  # of rows with any of them
READABLE_VERSIONS = frozenset({1, PLAIN_VERSION, EXTENDED_VERSION})

OF_IMAGES = {
    # Ids of the categories that were looked for in this image, ascending. Null: all of the run's vocabulary. Empty:
    # none, so that nothing can have been found. A category that is not in it was not asked for, which differs from
    # "not found".
    "asked": pa.list_(pa.field("element", pa.int32(), nullable=False)),
    # What a person has checked of this image. Null: nothing. "complete": every object of the vocabulary has its box,
    # and every box is right. "boxes": the boxes with a `source` are right; objects may be missing.
    "review": pa.string(),
}
OF_DETECTIONS = {
    # The score of a second model that looked at the box, in [0, 1]; `score` stays the detector's. Null: it did not.
    "score2": pa.float32(),
    # How many of the runs that were fused have found the object, 1 or more. Null: the box was not fused.
    "agreement": pa.int16(),
    # 1 where the label's author gave no score. `score` is 1 then, so that every threshold keeps the box; exports
    # write no score. Null: it has a score.
    "unscored": pa.int8(),
    # Who the box is from. Null: the model, and nobody has checked it. "accepted": the model, and a person agrees.
    # "moved", "renamed", "moved+renamed": a person changed its sides, its category, or both. "added": a person drew it.
    "source": pa.string(),
    # The model's score, in [0, 1], of a box that a person has checked, whose own `score` is 1. Null: as `score`.
    "model_score": pa.float32(),
}
NAMES = (*OF_IMAGES, *OF_DETECTIONS)  # in the order that files have them in

Values = npt.NDArray[Any]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """These columns in the order that files have them in. Raises ValueError for one that is not declared here."""
    wanted = set(names)
    if unknown := sorted(wanted.difference(NAMES)):
        raise ValueError(f"column {unknown[0]!r} is none of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def schema_fields(names: Sequence[str]) -> dict[str, Any]:
    """Return the fingerprint's fields about the columns of a run that has these: `schema_version` is the lowest with
    them.
    """
    if not names:
        return {"schema_version": PLAIN_VERSION}
    return {"schema_version": EXTENDED_VERSION, "columns": list(in_order(names))}


def detection_fields(names: Iterable[str]) -> list[pa.Field]:
    """Return those of these columns that each detection has a value of, as Arrow fields."""
    return [pa.field(name, OF_DETECTIONS[name]) for name in in_order(names) if name in OF_DETECTIONS]


def image_fields(names: Iterable[str]) -> list[pa.Field]:
    """Return those of these columns that each image has a value of, as Arrow fields."""
    return [pa.field(name, OF_IMAGES[name]) for name in in_order(names) if name in OF_IMAGES]


def absent(name: str, count: int) -> Values:
    """Return (count,) values of a detections' column that are all null: NaN, 0 or None, by its type."""
    kind = OF_DETECTIONS[name]
    if pa.types.is_floating(kind):
        return np.full(count, np.nan, kind.to_pandas_dtype())
    return np.zeros(count, kind.to_pandas_dtype()) if pa.types.is_integer(kind) else np.full(count, None, np.object_)


def to_arrow(name: str, values: Values) -> pa.Array:
    """Return values of a detections' column, (n,) with null as in `absent`."""
    kind = OF_DETECTIONS[name]
    if pa.types.is_floating(kind):
        return pa.array(values, kind, mask=np.isnan(values))
    return pa.array(values, kind, mask=values == 0) if pa.types.is_integer(kind) else pa.array(values.tolist(), kind)


def from_arrow(name: str, column: pa.Array | pa.ChunkedArray) -> Values:
    """Return the inverse of `to_arrow`."""
    if pa.types.is_integer(OF_DETECTIONS[name]):
        column = pc.fill_null(column, 0)
    values: Values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return values

"""Compacted Parquet: a flat table of boxes and one of images, for SQL and data frames; pixels beside, if asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeler.exports import data_card
from labeler.exports.formats import Format, Frame, PartSize
from labeler.exports.pixels import Pixels
from labeler.exports.rolling_parquet import (
    IMAGE,
    IMAGE_FEATURE,
    ParquetPart,
    class_label,
    sequence,
    value,
    with_features,
)
from labeler.exports.selection import ChosenImage
from labeler.exports.totals import ExportTotals
from labeler.labels.chosen_score import FUSED
from labeler.labels.detections_column import MASK, SIDES, mask_value
from labeler.labels.extensions import absent, to_arrow

BYTES_PER_PART = 384 << 20  # between 256 and 512 MB
_GROUP_ROWS = 1 << 17
ROWS_PER_PART = 8_000_000  # of either table; some 300 MB of boxes

_MASK_FEATURE = {
    "size": sequence(value(pa.int32())), "counts": value(pa.binary()), "quality": value(pa.float32())
}  # fmt: skip
_ORIGIN = [("run_id", pa.string()), ("model_digest", pa.string())]
_KEY = [("image_id", pa.int64()), ("shard_id", pa.string()), ("index", pa.int64()), ("digest", pa.string())]
BOXES = pa.schema(
    [
        *_KEY,
        ("file_name", pa.string()),
        ("category_id", pa.int32()),
        ("category", pa.string()),
        ("label", pa.int64()),  # 0-based class index
        ("score", pa.float32()),
        *((side, pa.float32()) for side in SIDES),
        ("mask", MASK),  # null where there is none
        *_ORIGIN,
    ]
)
IMAGES = pa.schema(
    [
        *_KEY,
        ("file_name", pa.string()),
        ("image_key", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("phash", pa.int64()),
        ("boxes", pa.int32()),
        *_ORIGIN,
    ]
)


@dataclass(frozen=True)
class TablesFormat(Format):
    """boxes/train-00000.parquet ... and images/train-00000.parquet ..., each with the columns above, and a data card.

    Attributes:
        copy_images: the images table also has the encoded, upright image, as `datasets`' Image.
        rows_per_part: a part ends with the unit that brings one of the tables to so many rows.
        bytes_per_part: the same for the bytes of a file, instead, if there are pixels or masks.
    """

    copy_images: bool = False
    bytes_per_part: int = BYTES_PER_PART
    rows_per_part: int = ROWS_PER_PART
    name = "parquet"
    reserved = frozenset((*IMAGES.names, "image"))
    needs_masks = True

    @property
    def needs_pixels(self) -> bool:
        return self.copy_images

    def part_size(self, frame: Frame) -> PartSize | None:
        if self.copy_images or frame.has_masks:
            return None
        return PartSize(self.rows_per_part, self.rows_per_part)

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> TablesPart:
        return TablesPart(self, frame, number, folder)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        tables = {
            "images": data_card.patterns(frame, totals.images, "images/{}-*.parquet"),
            "boxes": data_card.patterns(frame, totals.boxes, "boxes/{}-*.parquet"),
        }
        notes = "`boxes` has a row per box; `image_id` joins it with `images`."
        return {data_card.NAME: data_card.data_card(frame, totals, tables, notes=notes)}


def _second_scores(frame: Frame) -> list[pa.Field]:
    """Columns of boxes that only rescored runs have: `score` is the detector's in this format, whatever is chosen."""
    if "score2" not in frame.run.columns:
        return []
    fused = [pa.field(FUSED, pa.float32())] if frame.selection.score.name == FUSED else []
    return [pa.field("score2", pa.float32()), *fused]  # null where a box has none


class TablesPart(ParquetPart):
    """One part: two files for each split."""

    def __init__(self, settings: TablesFormat, frame: Frame, number: int, folder: Path) -> None:
        self._keep = frame.run.keep
        manifest = frame.run.manifest
        self._origin = {"run_id": manifest.run_id, "model_digest": manifest.fingerprint_fields.get("model")}
        labels = class_label([category.name for category in frame.categories])
        columns = [*IMAGES, *(pa.field(name, pa.string()) for name in self._keep)]
        columns += [pa.field("image", IMAGE)] if settings.copy_images else []
        self._second = _second_scores(frame)
        self._size, self._boxes = settings.part_size(frame), 0
        schemas = {
            "boxes": with_features(pa.schema([*BOXES, *self._second]), {"label": labels, "mask": _MASK_FEATURE}),
            "images": with_features(pa.schema(columns), {"image": IMAGE_FEATURE}),
        }
        super().__init__(frame, number, folder, schemas, settings.bytes_per_part, _GROUP_ROWS)

    @property
    def is_full(self) -> bool:
        return super().is_full if self._size is None else self._size.is_reached(self._images, self._boxes)

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        row, found = image.row, image.detections
        key = {"image_id": image.image_id, "file_name": image.file_name, **self._origin}
        key |= {name: row[name] for name in ("shard_id", "index", "digest")}
        count = len(found)
        ids = found.category_ids.tolist()
        boxes: dict[str, list[Any]] = {name: [value] * count for name, value in key.items()}
        boxes |= {"category_id": ids, "category": [self._names[id_] for id_ in ids]}
        scores = image.detector_scores
        boxes |= {"label": [self._class_of[id_] for id_ in ids]}
        boxes |= {"score": found.known_scores(None) if scores is None else scores.tolist()}
        second = found.more.get("score2", absent("score2", count))
        boxes |= {"score2": to_arrow("score2", second).to_pylist()} if self._second else {}
        boxes |= {"fused": found.scores.tolist()} if len(self._second) > 1 else {}
        boxes |= {side: found.boxes[:, place].tolist() for place, side in enumerate(SIDES)}
        masks = [found.mask_of(row) for row in range(count)]
        boxes |= {"mask": [None if mask is None else mask_value(mask) for mask in masks]}
        self._files["boxes", image.split].add(boxes)
        self._images, self._boxes = self._images + 1, self._boxes + count
        values = {name: row[name] for name in (*IMAGES.names, *self._keep) if name in row} | key | {"boxes": count}
        if pixels is not None:
            values["image"] = {"bytes": pixels.data, "path": f"{image.row_id}.{pixels.extension}"}
        size = len(pixels.data) if pixels is not None else 0
        self._files["images", image.split].add({n: [v] for n, v in values.items()}, payload_bytes=size)

"""One row an image with its pixels and objects, as `datasets.load_dataset` takes object detection data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeler.exports import data_card
from labeler.exports.formats import Format, Frame
from labeler.exports.parquet_tables import BYTES_PER_PART
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
from labeler.labels.boxes import area, xyxy_to_xywh

_GROUP_ROWS = 1_000
_OBJECTS = pa.struct(
    [
        ("bbox", pa.list_(pa.list_(pa.float32(), 4))),  # xywh, as COCO and as these data sets usually have it
        ("category", pa.list_(pa.int64())),
        ("score", pa.list_(pa.float32())),
        ("area", pa.list_(pa.float32())),
    ]
)
ROWS = pa.schema(
    [
        ("image", IMAGE),
        ("image_id", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("file_name", pa.string()),
        ("digest", pa.string()),
        ("objects", _OBJECTS),
    ]
)


@dataclass(frozen=True)
class HuggingFaceFormat(Format):
    """data/train-00000.parquet ..., and the data card by which `datasets` finds them."""

    bytes_per_part: int = BYTES_PER_PART
    name = "hf"
    reserved = frozenset(ROWS.names)
    needs_pixels = True

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> HuggingFacePart:
        return HuggingFacePart(self, frame, number, folder)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        files = data_card.patterns(frame, totals.images, "data/{}-*.parquet")
        return {data_card.NAME: data_card.data_card(frame, totals, {"default": files})}


class HuggingFacePart(ParquetPart):
    """One part: a file for each split."""

    def __init__(self, settings: HuggingFaceFormat, frame: Frame, number: int, folder: Path) -> None:
        self._keep = frame.run.keep
        floats = sequence(value(pa.float32()))
        objects = {
            "bbox": sequence(sequence(value(pa.float32()), 4)),
            "category": sequence(class_label([category.name for category in frame.categories])),
            "score": floats,
            "area": floats,
        }
        plain = pa.schema([*ROWS, *(pa.field(name, pa.string()) for name in self._keep)])
        schema = with_features(plain, {"image": IMAGE_FEATURE, "objects": objects})
        super().__init__(frame, number, folder, {"data": schema}, settings.bytes_per_part, _GROUP_ROWS)

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("this format needs the image")
        row, found = image.row, image.detections
        objects = {
            "bbox": xyxy_to_xywh(found.boxes).tolist(),
            "category": [self._class_of[id_] for id_ in found.category_ids.tolist()],
            "score": found.known_scores(None),
            "area": area(found.boxes).tolist(),
        }
        values: dict[str, Any] = {name: row[name] for name in ("width", "height", "digest", *self._keep)}
        values |= {"image_id": image.image_id, "file_name": image.file_name, "objects": objects}
        values["image"] = {"bytes": pixels.data, "path": f"{image.row_id}.{pixels.extension}"}
        columns = {name: [one] for name, one in values.items()}
        self._files["data", image.split].add(columns, payload_bytes=len(pixels.data))

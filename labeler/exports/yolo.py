"""YOLO: an image and a text file of boxes each, and data.yaml, as ultralytics takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from labeler.exports.formats import Format, Frame, Part
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage
from labeler.exports.totals import ExportTotals
from labeler.labels.detections import Detections

IMAGES_PER_PART = 2_000  # how much is done again after a crash; parts are not seen in the result


@dataclass(frozen=True)
class YoloFormat(Format):
    """images/<split>/<shard>-<index>.<ext>, labels/ alike, data.yaml; sources-*.jsonl say where each image came from.

    A split is one flat folder, because some readers look into no folder below it.

    Class indices are positions, as YOLO wants them; data.yaml also has the vocabulary's ids. There is no place for
    scores in the format.
    """

    images_per_part: int = IMAGES_PER_PART
    name = "yolo"
    needs_pixels = True

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> YoloPart:
        return YoloPart(frame, number, folder, self.images_per_part)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        """data.yaml has no `path`: ultralytics then takes the folder it is in, wherever that is moved."""
        document = {split: f"images/{split}" for split in frame.splits}
        names = {
            "names": {place: category.name for place, category in enumerate(frame.categories)},
            "category_ids": [category.id for category in frame.categories],
        }
        text = yaml.safe_dump(document | names, sort_keys=False, allow_unicode=True)
        return {"data.yaml": text.encode()}


class YoloPart(Part):
    """Images and labels go straight to the target."""

    def __init__(self, frame: Frame, number: int, folder: Path, limit: int) -> None:
        super().__init__(frame, number, most_images=limit)
        self._path = folder / "sources.jsonl"
        self._sources = self._path.open("w", encoding="utf-8")

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("YOLO needs the image")
        row, stem = image.row, f"{image.split}/{image.stem}"
        text = label_text(image.detections, self._class_of, width=row["width"], height=row["height"])
        self._uploads.put(f"images/{stem}.{pixels.extension}", pixels.data)
        self._uploads.put(f"labels/{stem}.txt", text.encode())
        source = {"file": f"images/{stem}.{pixels.extension}", "file_name": image.file_name, "uri": row["uri"]}
        source |= {"image_id": image.image_id, "digest": row["digest"]}
        self._sources.write(json.dumps(source, ensure_ascii=False) + "\n")
        self._images += 1

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        self._sources.close()
        return {f"sources-{self._number:05d}.jsonl": self._path}


def label_text(detections: Detections, class_of: Mapping[int, int], *, width: int, height: int) -> str:
    """A line a box: class, center x, center y, width, height, in parts of the upright image; "" without boxes.

    Corners are clipped first and rounded to six places, so that no value leaves [0, 1].
    """
    corners = np.clip(detections.boxes.astype(np.float64) / [width, height, width, height], 0, 1)
    sizes = corners[:, 2:] - corners[:, :2]
    values = np.concatenate([corners[:, :2] + sizes / 2, sizes], 1).round(6).tolist()
    ids = detections.category_ids.tolist()
    return "".join(
        f"{class_of[id_]} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for id_, (x, y, w, h) in zip(ids, values, strict=True)
    )

"""X-AnyLabeling: a label file beside each image, as labelme has them, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.exports.formats import Format, Frame, Part
from labeler.exports.pixels import Pixels
from labeler.exports.reviewed import clipped_boxes, identity
from labeler.exports.selection import ChosenImage
from labeler.exports.splits import ALL
from labeler.exports.totals import ExportTotals

VERSION = "4.2.1"  # of X-AnyLabeling, whose files these are like
IMAGES_PER_PART = 2_000  # how much is done again after a crash; parts are not seen in the result


@dataclass(frozen=True)
class XAnyLabelingFormat(Format):
    """images/<shard>/<index>.<ext> with <index>.json beside (<split>/<shard>/ with splits), and classes.txt."""

    images_per_part: int = IMAGES_PER_PART
    boxes_per_task: int | None = None
    name = "x-anylabeling"
    needs_pixels = True
    later = frozenset({"boxes_per_task"})

    @property
    def most_boxes(self) -> int | None:
        return self.boxes_per_task

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> XAnyLabelingPart:
        return XAnyLabelingPart(frame, number, most_images=self.images_per_part)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        return {"classes.txt": "".join(f"{category.name}\n" for category in frame.categories).encode()}


class XAnyLabelingPart(Part):
    """Images and label files go straight to the target."""

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("X-AnyLabeling needs the image")
        folder = "images" if image.split == ALL else image.split
        stem = f"{folder}/{image.file_id}"
        name = f"{stem}.{pixels.extension}"
        self._uploads.put(name, pixels.data)
        document = self._document(image, name.rpartition("/")[2])
        self._uploads.put(f"{stem}.json", json.dumps(document, ensure_ascii=False).encode())
        self._images += 1

    def _document(self, image: ChosenImage, file_name: str) -> dict[str, Any]:
        size = {"imageHeight": image.row["height"], "imageWidth": image.row["width"]}
        head = {"version": VERSION, "flags": {}, "checked": False, "shapes": self._shapes(image)}
        return head | {"imagePath": file_name, "imageData": None} | size | identity(image, self._frame)

    def _shapes(self, image: ChosenImage) -> list[dict[str, Any]]:
        found = image.detections
        corners = np.round(clipped_boxes(image), 2)
        clockwise = corners[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).tolist()
        scores = found.known_scores()
        rest: dict[str, Any] = {"group_id": None, "difficult": False, "flags": {}, "attributes": {}}
        return [
            {"label": self._names[category], "score": score, "points": points, "shape_type": "rectangle"}
            | {"description": box_id, **rest}
            for category, score, points, box_id in zip(
                found.category_ids.tolist(), scores, clockwise, image.box_ids, strict=True
            )
        ]

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        return {}

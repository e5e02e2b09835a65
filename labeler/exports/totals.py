"""How far an export has come: what its parts hold, and where the next part begins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from labeler import plain_json
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage, UnitChoice


@dataclass
class ExportTotals:
    """Counts from the beginning of the export; written beside each finished part, and read when it continues.

    Attributes:
        units: units of the run that are done.
        rows: images of the run that were looked at; image ids count from here.
        images: of the export, by split.
        annotations: boxes, regions to ignore among them; annotation ids count from here.
        left_out: images that could not be labeled, by status.
        not_selected: images that could have been taken.
        boxes: annotations by split.
        category_images, category_boxes: by category id.
        bytes_read: of images, where the export copies them.
        extensions: of copied images, how many have each.
    """

    units: int = 0
    rows: int = 0
    images: Counter[str] = field(default_factory=Counter)
    annotations: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    not_selected: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    category_images: Counter[int] = field(default_factory=Counter)
    category_boxes: Counter[int] = field(default_factory=Counter)
    bytes_read: int = 0
    extensions: Counter[str] = field(default_factory=Counter)

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        self.images[image.split] += 1
        self.annotations += len(image.detections) + (0 if image.ignored is None else len(image.ignored))
        self.boxes[image.split] += len(image.detections)
        if pixels is not None:
            self.bytes_read += image.row["length"] or len(pixels.data)
            self.extensions[pixels.extension] += 1
        ids = image.detections.category_ids.tolist()
        self.category_boxes.update(ids)
        self.category_images.update(set(ids))

    def end_unit(self, choice: UnitChoice, taken: Sequence[ChosenImage]) -> None:
        self.units += 1
        self.rows += choice.rows
        self.left_out.update(choice.failed)
        self.not_selected += choice.rows - len(choice.failed) - len(taken)

    def include(self, more: ExportTotals) -> None:
        """Count on with the units that follow."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(more, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def to_dict(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    def to_json(self) -> bytes:
        return json.dumps(self.to_dict()).encode()

    @staticmethod
    def from_json(data: bytes) -> ExportTotals:
        values: dict[str, Any] = plain_json.parse(data)
        for name, value in values.items():
            if isinstance(value, dict):
                by_id = name.startswith("category_")
                values[name] = Counter({int(key) if by_id else key: count for key, count in value.items()})
        return ExportTotals(**values)

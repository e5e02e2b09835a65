"""ODVG: a JSON line for each image, as MM-Grounding-DINO and Open-GroundingDino train on; scores are kept beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labeler.digests import readable_json
from labeler.exports.formats import Format, Frame, Part, part_name
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage
from labeler.exports.totals import ExportTotals


def describe_written(start: bytes) -> str | None:
    """Return what an ODVG file is about by its first bytes; None if it is not one."""
    return "an ODVG file" if start.startswith(b'{"filename": ') else None


@dataclass(frozen=True)
class OdvgFormat(Format):
    """Labels are 0-based class indices; label_map.json says which category each is.

    Attributes:
        copy_images: put the images beside, under images/; file names then are below that folder.
        images_per_part: None for one file.
    """

    copy_images: bool = False
    images_per_part: int | None = None
    name = "odvg"

    @property
    def needs_pixels(self) -> bool:
        return self.copy_images

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> OdvgPart:
        return OdvgPart(self, frame, number, folder)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        label_map = {str(place): category.name for place, category in enumerate(frame.categories)}
        return {"label_map.json": readable_json(label_map)}


class OdvgPart(Part):
    """One part: a file for each split."""

    def __init__(self, settings: OdvgFormat, frame: Frame, number: int, folder: Path) -> None:
        super().__init__(frame, number, most_images=settings.images_per_part)
        self._paths = {split: folder / f"{split}.jsonl" for split in frame.splits}
        self._files = {split: path.open("w", encoding="utf-8") for split, path in self._paths.items()}

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        file_name = image.file_name if pixels is None else self._uploads.put_image(image, pixels)
        found = image.detections
        boxes = np.round(found.boxes.astype(np.float64), 2).tolist()
        scores = found.known_scores()
        instances = [
            {"bbox": box, "label": self._class_of[id_], "category": self._names[id_], "score": score}
            for box, id_, score in zip(boxes, found.category_ids.tolist(), scores, strict=True)
        ]
        size = {"height": image.row["height"], "width": image.row["width"]}
        line = {"filename": file_name, **size, "detection": {"instances": instances}}
        self._files[image.split].write(json.dumps(line, ensure_ascii=False) + "\n")
        self._images += 1

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        for file in self._files.values():
            file.close()
        only = self._most_images is None
        return {part_name(split, self._number, "jsonl", only=only): path for split, path in self._paths.items()}

"""Label Studio: tasks with predictions in its own JSON, the labeling config that they fit, and the images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from labeler import storage
from labeler.exports.formats import Format, Frame, Part, part_name
from labeler.exports.label_studio_masks import encode
from labeler.exports.pixels import Pixels
from labeler.exports.reviewed import IMAGES_PER_TASKS, clipped_boxes, identity, labels_shown
from labeler.exports.sampled import DrawnBox
from labeler.exports.selection import ChosenImage
from labeler.exports.totals import ExportTotals
from labeler.exports.xml_text import attribute
from labeler.vocabulary import Category

_LOCAL = "/data/local-files/?d="  # Label Studio's address of a file below its LOCAL_FILES_DOCUMENT_ROOT
_DIGITS = 4  # of percents: a hundredth of a pixel in an image of 12,000
_IMAGE, _BOXES, _MASKS = "image", "label", "mask"  # names of tags in the config
_CONFIG = """\
<View>
  <Image name="{image}" value="${image}" zoom="true" zoomControl="true"/>
{controls}
</View>
"""


@dataclass(frozen=True)
class LabelStudioFormat(Format):
    """tasks-00000.json ..., labels.xml and images/.

    Attributes:
        image_prefix: what stands before `images/` in the address of an image; None for the bucket that the export goes
            to, or else for Label Studio's local files, where the export's folder is in the document root.
        labels: whose names the config offers: of "all" categories, or of those "present" in the export.
        images_per_part: tasks of a file.
        boxes_per_task: an image with more is written as crops; None for any number.
    """

    image_prefix: str | None = None
    labels: str = "all"
    images_per_part: int = IMAGES_PER_TASKS
    boxes_per_task: int | None = None
    name = "label-studio"
    needs_pixels = True
    later = frozenset({"boxes_per_task"})
    needs_masks = True

    @property
    def most_boxes(self) -> int | None:
        return self.boxes_per_task

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> LabelStudioPart:
        return LabelStudioPart(self, frame, number, folder)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        shown = labels_shown(frame, totals, self.labels)
        return {"labels.xml": labeling_config(shown, masks=frame.has_masks).encode()}


class LabelStudioPart(Part):
    """One part: a file of tasks for each split; images go straight to the target."""

    def __init__(self, settings: LabelStudioFormat, frame: Frame, number: int, folder: Path) -> None:
        super().__init__(frame, number, most_images=settings.images_per_part)
        self._prefix = settings.image_prefix or _prefix_of(frame.target)
        self._paths = {split: folder / f"{split}.json" for split in frame.splits}
        self._files = {split: path.open("w", encoding="utf-8") for split, path in self._paths.items()}
        self._counts = dict.fromkeys(frame.splits, 0)

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("Label Studio needs the image")
        address = f"{self._prefix}images/{self._uploads.put_image(image, pixels)}"
        task = {
            "data": {_IMAGE: address} | identity(image, self._frame),
            "predictions": [self._prediction(image)],
        }
        self._files[image.split].write(",\n" if self._counts[image.split] else "[\n")
        self._files[image.split].write(json.dumps(task, ensure_ascii=False))
        self._counts[image.split] += 1
        self._images += 1

    def _prediction(self, image: ChosenImage) -> dict[str, Any]:
        found = image.detections
        lowest = min((score for score in found.known_scores() if score is not None), default=0.0)
        version = self._frame.run.manifest.run_id[:8]
        return {"model_version": version, "score": lowest, "result": list(self._regions(image))}

    def _regions(self, image: ChosenImage) -> Iterable[dict[str, Any]]:
        found, size = image.detections, {"original_width": image.row["width"], "original_height": image.row["height"]}
        percents, places = _percents(image), image.places.tolist()
        # Label Studio shows `meta` beside a region: of a sample's tasks, which boxes to judge.
        drawn = {} if image.sampled is None else {box.box: _judge_this(box) for box in image.sampled.boxes}
        for place, (box_id, category, score) in enumerate(
            zip(image.box_ids, found.category_ids.tolist(), found.known_scores(), strict=True)
        ):
            name, region = self._names[category], box_id.replace("/", "-")
            about = {"to_name": _IMAGE, **size, "image_rotation": 0} | ({} if score is None else {"score": score})
            about |= drawn.get(places[place], {})
            value = percents[place] | {"rotation": 0, "rectanglelabels": [name]}
            yield {"id": region, "from_name": _BOXES, "type": "rectanglelabels", **about, "value": value}
            if (mask := found.mask_of(place)) is not None:
                value = {"format": "rle", "rle": encode(mask), "brushlabels": [name]}
                yield {"id": f"{region}-mask", "from_name": _MASKS, "type": "brushlabels", **about, "value": value}

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        for split, file in self._files.items():
            file.write("\n]\n" if self._counts[split] else "[]\n")
            file.close()
        return {part_name(split, self._number, "json", whole="tasks"): path for split, path in self._paths.items()}


def labeling_config(categories: Iterable[Category], *, masks: bool) -> str:
    """Return the labeling config of a project.

    `category` is what Label Studio's own COCO export writes as an id. A further control, such as a choice "complete",
    would become a category there.
    """
    labels = "".join(
        f'    <Label value={attribute(category.name)} category="{category.id}"/>\n' for category in categories
    )
    tags = {"RectangleLabels": _BOXES} | ({"BrushLabels": _MASKS} if masks else {})
    controls = "\n".join(f'  <{tag} name="{name}" toName="{_IMAGE}">\n{labels}  </{tag}>' for tag, name in tags.items())
    return _CONFIG.format(image=_IMAGE, controls=controls)


def _judge_this(box: DrawnBox) -> dict[str, Any]:
    return {"meta": {"text": [f"judge this box ({box.described})"]}}


def _prefix_of(target: str) -> str:
    """Return the address of the export's folder as Label Studio has it."""
    if "://" in target and not target.startswith("file:"):
        return storage.redact(target).rstrip("/") + "/"
    return f"{_LOCAL}{quote(storage.basename(target))}/"


def _percents(image: ChosenImage) -> list[dict[str, float]]:
    """Upper left corner and size of each box, in percent of the image's; no box leaves it."""
    row = image.row
    whole = np.array([row["width"], row["height"]] * 2, np.float64)
    corners = clipped_boxes(image) / whole * 100
    sizes = corners[:, 2:] - corners[:, :2]
    if image.crop is None:  # boxes of crops are added to whole pixels when they come back, and are equal to the bit
        corners = np.round(corners, _DIGITS)
        sizes = np.round(corners[:, 2:] - corners[:, :2], _DIGITS)
    names = ("x", "y", "width", "height")
    return [dict(zip(names, sides, strict=True)) for sides in np.concatenate([corners[:, :2], sizes], 1).tolist()]

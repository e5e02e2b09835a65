"""COCO and LVIS json: images and boxes are streamed to disk side by side, then joined; memory stays flat."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.exports import coco_layouts as layouts
from labeler.exports.formats import Format, Frame, Part, part_name
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage
from labeler.exports.splits import key_of
from labeler.exports.totals import ExportTotals
from labeler.labels.boxes import area, clip_to_image, xyxy_to_xywh
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask
from labeler.vocabulary import Category

_LVIS_POLICY = (
    "pseudo-labels: neg_category_ids is a sample of the categories of which nothing at or above the score floor was "
    "found in the image (none where the image reached the cap of detections); not_exhaustive_category_ids are those "
    "with a box here and another that was found and not exported; all other categories are unknown"
)
_DESCRIPTION = "pseudo-labels by labeler"
_OURS = re.compile(rb'\{"info": \{"description": "' + _DESCRIPTION.encode() + rb'", "run_id": "(\w+)"')
_FREQUENT, _COMMON = 100, 10  # images; LVIS: rare up to 10, common up to 100


@dataclass(frozen=True)
class CocoFormat(Format):
    """COCO, or LVIS on top of it.

    Attributes:
        lvis: also write what LVIS says of images and categories.
        copy_images: put the images beside, under images/; file names then are below that folder.
        images_per_part: None for one file.
        negatives: how many categories an image gets in LVIS's `neg_category_ids`.
        category_ids, layout: as `coco_layouts` has them. Other layouts than "flat" also have the ids of images and
            boxes by which corrections are read back, and an empty `segmentation` where there is no mask.
    """

    lvis: bool = False
    copy_images: bool = False
    images_per_part: int | None = None
    negatives: int = 20
    category_ids: str = layouts.VOCABULARY
    layout: str = layouts.FLAT
    needs_masks = True
    later = frozenset({"category_ids", "layout"})

    @property
    def name(self) -> str:
        return "lvis" if self.lvis else "coco"

    @property
    def needs_pixels(self) -> bool:
        return self.copy_images or self.layout == layouts.ROBOFLOW

    @property
    def has_ignored(self) -> bool:
        return not self.lvis

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> CocoPart:
        return CocoPart(self, frame, number, start.annotations, folder)


class CocoPart(Part):
    """One part: a file for each split."""

    def __init__(self, settings: CocoFormat, frame: Frame, number: int, annotations: int, folder: Path) -> None:
        super().__init__(frame, number, most_images=settings.images_per_part)
        self._settings, self._annotations = settings, annotations
        self._documents = {split: _GrowingDocument(folder, split) for split in frame.splits}
        cap = frame.run.manifest.config["detect"].get("max_detections") or 0
        self._federated = _Federated(frame.categories, settings.negatives, int(cap)) if settings.lvis else None
        self._numbers = layouts.numbers(frame.categories, settings.category_ids)
        self._is_flat = settings.layout == layouts.FLAT

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        row = image.row
        entry: dict[str, Any] = {"id": image.image_id, "file_name": image.file_name}
        entry |= {"width": row["width"], "height": row["height"]}
        if pixels is not None:
            entry |= {"file_name": self._put(image, pixels), "source": image.file_name}
        if not self._is_flat:
            entry |= {"digest": row["digest"], "labeler_row": image.row_id}
        if self._federated is not None:
            entry |= self._federated.of(image)
        lines = annotation_lines(image, self._annotations, self._numbers, box_ids=not self._is_flat)
        lines += crowd_lines(image, self._annotations + len(lines), self._numbers, box_ids=not self._is_flat)
        self._annotations += self._documents[image.split].add(entry, image, lines)
        self._images += 1

    def _put(self, image: ChosenImage, pixels: Pixels) -> str:
        """Write the image's copy; returns its file name as COCO has it."""
        if self._is_flat:
            return self._uploads.put_image(image, pixels)
        file_name = f"{image.stem}.{pixels.extension}"
        self._uploads.put(f"{layouts.image_folder(self._settings.layout, image.split)}/{file_name}", pixels.data)
        return file_name

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        return {
            self._file(split): document.finish(self._head(), self._categories(document))
            for split, document in self._documents.items()
        }

    def _file(self, split: str) -> str:
        if not self._is_flat:
            return layouts.label_file(self._settings.layout, split)
        return part_name(split, self._number, "json", only=self._most_images is None)

    def _head(self) -> dict[str, Any]:
        manifest = self._frame.run.manifest
        info = {
            "description": _DESCRIPTION,
            "run_id": manifest.run_id,
            "model": manifest.config["model"]["name"],
            "model_digest": manifest.fingerprint_fields.get("model"),
            "date_created": manifest.created,
        }
        return info | ({"policy": _LVIS_POLICY} if self._settings.lvis else {})

    def _categories(self, document: _GrowingDocument) -> list[dict[str, Any]]:
        return [
            {"id": self._numbers[c.id], "name": c.name, "supercategory": c.supercategory or ""}
            | (_lvis_category(c, document.images[c.id], document.boxes[c.id]) if self._settings.lvis else {})
            for c in self._frame.categories
        ]


def _lvis_category(category: Category, images: int, boxes: int) -> dict[str, Any]:
    """LVIS's further members; frequency is the vocabulary's own, or counted in this file by LVIS's bounds."""
    counted = "f" if images > _FREQUENT else "c" if images > _COMMON else "r"
    return {
        "synset": category.name,
        "synonyms": list(category.phrases),
        "def": "",
        "frequency": category.frequency or counted,
        "image_count": images,
        "instance_count": boxes,
    }


def describe_written(start: bytes) -> str | None:
    """Return what a COCO or LVIS file is about by its first bytes; None if `CocoFormat` did not write it."""
    found = _OURS.match(start)
    return f"the export of run {found[1].decode()}" if found else None


class _GrowingDocument:
    """One JSON file in the making."""

    def __init__(self, folder: Path, split: str) -> None:
        self._path = folder / f"{split}.json"
        self._parts = {name: folder / f"{split}-{name}" for name in ("images", "annotations")}
        self._files = {name: path.open("w", encoding="utf-8") for name, path in self._parts.items()}
        self._counts = dict.fromkeys(self._parts, 0)
        self.images: Counter[int] = Counter()
        self.boxes: Counter[int] = Counter()

    def add(self, entry: Mapping[str, Any], image: ChosenImage, lines: Sequence[str]) -> int:
        """Write an image and its annotations, one text per annotation; returns how many."""
        self._write("images", [json.dumps(entry, ensure_ascii=False)])
        self._write("annotations", lines)
        ids = image.detections.category_ids.tolist()
        self.boxes.update(ids)
        self.images.update(set(ids))
        return len(lines)

    def _write(self, name: str, lines: Sequence[str]) -> None:
        if lines:
            self._files[name].write((",\n" if self._counts[name] else "") + ",\n".join(lines))
            self._counts[name] += len(lines)

    def finish(self, info: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> Path:
        with self._path.open("w", encoding="utf-8") as whole:
            whole.write('{"info": ' + json.dumps(info) + ',\n"licenses": [],\n"categories": ')
            whole.write(json.dumps(categories, ensure_ascii=False))
            for name, path in self._parts.items():
                self._files[name].close()
                whole.write(f',\n"{name}": [\n')
                with path.open(encoding="utf-8") as lines:
                    shutil.copyfileobj(lines, whole, 1 << 20)
                whole.write("\n]")
                path.unlink()
            whole.write("}\n")
        return self._path


def annotation_lines(image: ChosenImage, before: int, numbers: Mapping[int, int], *, box_ids: bool) -> list[str]:
    """COCO annotations as JSON texts. Boxes become xywh here; `iscrowd` is 0, `score` is kept.

    A detection with a mask has it as `segmentation`, and the mask's area; others have no `segmentation`, or with
    `box_ids` an empty one.

    Args:
        before: ids count on from here.
        numbers: category id -> id in the file.
        box_ids: also write `labeler_box`.
    """
    detections = image.detections
    boxes = np.round(xyxy_to_xywh(detections.boxes).astype(np.float64), 2).tolist()
    areas = np.round(area(detections.boxes), 2).tolist()
    segmentations = _segmentations(detections, '"segmentation": [], ' if box_ids else "")
    if detections.masks is not None:
        areas = [box if mask is None else mask.area for box, mask in zip(areas, detections.masks, strict=True)]
    scores = ["" if score is None else f', "score": {score}' for score in detections.known_scores()]
    names = [f', "labeler_box": "{id_}"' for id_ in image.box_ids] if box_ids else [""] * len(detections)
    rows = zip(boxes, areas, scores, detections.category_ids.tolist(), segmentations, names, strict=True)
    return [  # by hand: half of json.dumps' time, and there are millions; all of them are finite numbers
        f'{{"id": {number}, "image_id": {image.image_id}, "category_id": {numbers[category_id]}, "bbox": {box}, '
        f'"area": {size}, {mask}"iscrowd": 0{score}{name}}}'
        for number, (box, size, score, category_id, mask, name) in enumerate(rows, before + 1)
    ]


def crowd_lines(image: ChosenImage, before: int, numbers: Mapping[int, int], *, box_ids: bool) -> list[str]:
    """COCO annotations of the regions to ignore: `iscrowd` is 1, and the box is an RLE, as COCO asks of crowds."""
    lines: list[str] = []
    if image.ignored is None:
        return lines
    found, row = image.stored[image.ignored], image.row
    clipped = clip_to_image(found.boxes, height=row["height"], width=row["width"])
    names = image.ids_of(image.ignored)
    boxes = np.round(xyxy_to_xywh(found.boxes).astype(np.float64), 2).tolist()
    scores = found.known_scores()
    rows = zip(clipped.tolist(), boxes, scores, found.category_ids.tolist(), names, strict=True)
    for (left, top, right, bottom), box, score, category_id, name in rows:
        if right <= left or bottom <= top:
            continue  # nothing of it is in the image
        window = np.ones((math.ceil(right) - int(left), math.ceil(bottom) - int(top)), np.bool_)
        mask = Mask.of_window(window, int(left), int(top), height=row["height"], width=row["width"])
        head = {"id": before + len(lines) + 1, "image_id": image.image_id, "category_id": numbers[category_id]}
        region = {"bbox": box, "area": mask.area, "segmentation": mask.json_rle, "iscrowd": 1, "score": score}
        lines.append(json.dumps(head | region | ({"labeler_box": name} if box_ids else {})))
    return lines


def _segmentations(detections: Detections, without: str) -> list[str]:
    """`"segmentation": {...}, ` of each detection, or what is there without a mask."""
    if detections.masks is None:
        return [without] * len(detections)
    return [without if mask is None else f'"segmentation": {json.dumps(mask.json_rle)}, ' for mask in detections.masks]


class _Federated:
    """LVIS's two lists about an image; see the policy above."""

    def __init__(self, categories: Sequence[Category], negatives: int, cap: int) -> None:
        self._ids = np.array(sorted(category.id for category in categories), np.int64)
        self._negatives, self._cap = negatives, cap

    def of(self, image: ChosenImage) -> dict[str, list[int]]:
        stored, kept = image.stored.category_ids, image.detections.category_ids
        negative: list[int] = []
        if not self._cap or len(stored) < self._cap:
            absent = np.setdiff1d(self._ids, stored)
            rng = np.random.default_rng(key_of(image.row["digest"] or image.row_id))  # the same in every export
            negative = sorted(rng.permutation(absent)[: self._negatives].tolist())
        names, counts = np.unique(stored, return_counts=True)
        exported = dict(zip(*(a.tolist() for a in np.unique(kept, return_counts=True)), strict=True))
        more = [i for i, n in zip(names.tolist(), counts.tolist(), strict=True) if 0 < exported.get(i, 0) < n]
        return {"neg_category_ids": negative, "not_exhaustive_category_ids": more}

"""WebDataset: tars of images with their labels as .json beside them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.digests import readable_json
from labeler.exports import data_card
from labeler.exports.formats import Format, Frame, Part, part_name
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage
from labeler.exports.totals import ExportTotals

IMAGES_PER_PART, BYTES_PER_PART = 10_000, 1 << 30
_LABELS = (
    "image_id", "file_name", "digest", "width", "height", "boxes_xyxy", "scores", "category_ids", "categories",
)  # fmt: skip
_MASKS = "masks"  # beside them if the run has masks: COCO's RLE for each box, or null
_NOTES = (
    "An image is in the column of its own kind ({kinds}), and the others are null in its row. `json` has its labels; "
    "boxes are `[x_min, y_min, x_max, y_max]` in pixels."
)


@dataclass(frozen=True)
class WebDatasetFormat(Format):
    """train-00000.tar ..., which end with the unit that fills them, and the data card that names their columns."""

    images_per_part: int = IMAGES_PER_PART
    bytes_per_part: int = BYTES_PER_PART
    name = "webdataset"
    reserved = frozenset((*_LABELS, _MASKS))
    needs_pixels = True
    needs_masks = True

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> WebDatasetPart:
        return WebDatasetPart(self, frame, number, folder)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        names = [{"id": category.id, "name": category.name} for category in frame.categories]
        kinds = sorted(totals.extensions)
        card = data_card.data_card(
            frame,
            totals,
            {"default": data_card.patterns(frame, totals.images, "{}-*.tar")},
            features=_features(frame, kinds),
            notes=_NOTES.format(kinds=", ".join(f"`{kind}`" for kind in kinds)),
        )
        return {"categories.json": readable_json(names), data_card.NAME: card}


def _features(frame: Frame, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return the columns that `datasets` would otherwise guess from the first samples.

    It would guess wrong: the first images may all be of one kind, and lists that are empty have no type.
    """
    types = dict.fromkeys((*_LABELS, *frame.run.keep), "string") | {
        "image_id": "int64", "width": "int64", "height": "int64"
    }  # fmt: skip
    labels: dict[str, dict[str, Any]] = {name: {"dtype": type_} for name, type_ in types.items()}
    labels["boxes_xyxy"] = {"list": {"list": "float64"}}
    labels |= {"scores": {"list": "float64"}, "category_ids": {"list": "int64"}, "categories": {"list": "string"}}
    if frame.has_masks:
        labels[_MASKS] = {"list": [{"name": "size", "list": "int32"}, {"name": "counts", "dtype": "string"}]}
    members = [{"name": name, **type_} for name, type_ in labels.items()]
    ours: list[dict[str, Any]] = [
        *({"name": kind, "dtype": "image"} for kind in kinds),
        {"name": "json", "struct": members},
    ]
    return [*ours, *({"name": name, "dtype": "string"} for name in ("__key__", "__url__"))]


class WebDatasetPart(Part):
    """One part: a tar for each split."""

    def __init__(self, settings: WebDatasetFormat, frame: Frame, number: int, folder: Path) -> None:
        super().__init__(frame, number, most_images=settings.images_per_part, most_bytes=settings.bytes_per_part)
        self._keep, self._has_masks = frame.run.keep, frame.has_masks
        self._paths = {split: folder / f"{split}.tar" for split in frame.splits}
        self._tars = {
            split: tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by finish()
            for split, path in self._paths.items()
        }

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("WebDataset needs the image")
        key = image.stem  # no dot in it: what follows the first dot is the member's kind
        labels = json.dumps(self._labels(image), ensure_ascii=False).encode()
        for extension, data in ((pixels.extension, pixels.data), ("json", labels)):
            member = tarfile.TarInfo(f"{key}.{extension}")  # without times or owners: equal exports are equal bytes
            member.size = len(data)
            self._tars[image.split].addfile(member, io.BytesIO(data))
        self._images += 1
        self._bytes += len(pixels.data) + len(labels)

    def _labels(self, image: ChosenImage) -> dict[str, Any]:
        row, found = image.row, image.detections
        ids = found.category_ids.tolist()
        values: tuple[Any, ...] = (
            image.image_id,
            image.file_name,
            row["digest"],
            row["width"],
            row["height"],
            np.round(found.boxes.astype(np.float64), 2).tolist(),
            found.known_scores(),
            ids,
            [self._names[id_] for id_ in ids],
        )
        labels = dict(zip(_LABELS, values, strict=True)) | {name: row[name] for name in self._keep}
        if self._has_masks:
            masks = [found.mask_of(place) for place in range(len(found))]
            labels[_MASKS] = [None if mask is None else mask.json_rle for mask in masks]
        return labels

    def finish(self) -> Mapping[str, Path]:
        for tar in self._tars.values():
            tar.close()
        return {part_name(split, self._number, "tar"): path for split, path in self._paths.items()}

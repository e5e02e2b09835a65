"""The boxes of a file in the frame of the images that they were matched with, and a count of all that did not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from labeler.errors import Refused
from labeler.imports.labels import Labels
from labeler.labels.boxes import clip_to_image
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask
from labeler.labels.records import Row
from labeler.truth.rles import to_rles

_ROUNDING = 0.02  # pixels that a box may leave its image by and not count as cut: files round sides to two decimals


@dataclass
class ImportCounts:
    """Counts of what was done with the boxes and images of a file.

    Attributes:
        unmatched: names in the file that no image has.
        unlisted: images that the file says nothing of.
        unread: images with labels that could not be read.
        clipped, outside: boxes that left their image in part, and wholly; the latter are excluded.
        unscored: boxes without a score.
        rotated: EXIF-rotated images with boxes in pixels whose size the file does not give.
    """

    unmatched: list[str] = field(default_factory=list)
    unlisted: int = 0
    unread: int = 0
    clipped: int = 0
    outside: int = 0
    unscored: int = 0
    rotated: int = 0

    def lines(self, labels: Labels) -> list[str]:
        """For people; nothing about what did not happen."""
        shown = ", ".join(map(ascii, self.unmatched[:5])) + (", ..." if len(self.unmatched) > 5 else "")
        said = [
            (len(self.unmatched), f"images of the file are not in the input: {shown}"),
            (self.unlisted, "images of the input are not in the file: status unlisted, which is not empty"),
            (self.unread, "images that the file has labels of could not be read"),
            (self.clipped, "boxes were cut at the border of their image"),
            (self.outside, "boxes outside of their image were excluded"),
            (self.unscored, "boxes have no score: they pass every threshold"),
            (self.rotated, "EXIF-rotated images have no size in the file: check that boxes are of the upright image"),
            *((count, f"{what} were excluded: a run cannot hold them") for what, count in labels.left_out.items()),
        ]
        return [f"{count:,} {what}" for count, what in said if count]


class ImportedBoxes:
    """The boxes of each image of a file.

    Args:
        ids: of each category of the file.
        sizes: (images of the file, 2) height and width; 0 where the run does not have it.

    Raises:
        Refused: a mask is not one of its image.
    """

    def __init__(
        self, labels: Labels, ids: Sequence[int | None], sizes: npt.NDArray[np.int32], counts: ImportCounts
    ) -> None:
        self._labels, self._ids, self.counts = labels, ids, counts
        self._masks = _masks(labels, sizes)
        self._order = np.argsort(labels.truth.image, kind="stable")
        self._bounds = np.searchsorted(labels.truth.image[self._order], np.arange(len(labels.truth.image_ids) + 1))

    def of(self, image: int, row: Row) -> Detections:
        """Best first, otherwise in the file's order."""
        assert row.width is not None
        assert row.height is not None
        rows = self._order[self._bounds[image] : self._bounds[image + 1]]
        scores = self._labels.scores[rows]
        rows = rows[np.argsort(-np.nan_to_num(scores, nan=1.0), kind="stable")]
        without_size = not self._labels.relative and not self._labels.truth.sizes[image].all()
        self.counts.rotated += int(without_size and len(rows) > 0 and (row.orientation or 1) != 1)
        boxes, stays = self._clipped(rows, row.width, row.height)
        rows, boxes = rows[stays], boxes[stays]
        scores = self._labels.scores[rows]
        unscored = np.isnan(scores)
        self.counts.unscored += int(unscored.sum())
        ids = [self._ids[place] for place in self._labels.truth.category[rows].tolist()]
        found = Detections.of(boxes, np.where(unscored, 1.0, scores), ids, np.full(len(rows), -1, np.int16))
        if unscored.any():
            found = replace(found, more={"unscored": unscored.astype(np.int8)})
        return self._with_masks(found, rows)

    def _clipped(
        self, rows: npt.NDArray[np.int64], width: int, height: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """((n, 4) xyxy in pixels, (n,) which have a part in the image)."""
        boxes = self._labels.truth.boxes_xywh[rows].copy()
        if self._labels.relative:
            boxes *= [width, height, width, height]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        clipped = clip_to_image(corners, height=height, width=width)
        moved = np.abs(clipped - corners) > _ROUNDING
        flat = (boxes[:, 2:] == 0) & ~moved[:, :2]  # sides without extent that are in the image
        stays = np.asarray(((clipped[:, 2:] > clipped[:, :2]) | flat).all(1), np.bool_)
        leaves = moved.any(1)
        self.counts.outside += int((~stays).sum())
        self.counts.clipped += int((stays & leaves).sum())
        return clipped.astype(np.float32), stays

    def _with_masks(self, found: Detections, rows: npt.NDArray[np.int64]) -> Detections:
        masks = [self._masks.get(row) for row in rows.tolist()]
        return found.with_masks(masks) if any(mask is not None for mask in masks) else found


def _masks(labels: Labels, sizes: npt.NDArray[np.int32]) -> dict[int, Mask]:
    """Box -> mask, of images that the run has."""
    truth = labels.truth
    rows = [row for row in labels.segmentations if sizes[truth.image[row]].all()]
    rles = to_rles([labels.segmentations[row] for row in rows], sizes[truth.image[rows]].reshape(-1, 2))
    masks = {}
    for row, rle in zip(rows, rles, strict=True):
        if rle is None:
            height, width = sizes[truth.image[row]].tolist()
            raise Refused(
                f"{truth.source}: a mask of image {truth.file_names[truth.image[row]]!a} is not polygons or an "
                f"RLE whose runs fill {height} x {width} pixels"
            )
        masks[row] = Mask(rle["size"][0], rle["size"][1], rle["counts"])
    return masks

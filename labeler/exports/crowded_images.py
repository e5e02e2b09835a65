"""A crowded image as the crops that are handed out: each an image of its own to the formats, with its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from labeler.exports.crowded import TaskCrop, cut_into_crops
from labeler.exports.encoded import encode_image
from labeler.exports.pixels import Pixels, decoded
from labeler.exports.selection import ChosenImage
from labeler.labels.boxes import clip_to_image
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask


def handed_out(
    image: ChosenImage, pixels: Pixels | None, most: int | None
) -> Iterator[tuple[ChosenImage, Pixels | None]]:
    """Yield what `crops_of` yields, with pixels. Takes memory for the decoded image and one crop."""
    whole = None
    for one in crops_of(image, None if pixels is None else most):
        if one.crop is None or pixels is None:
            yield one, pixels
            continue
        whole = decoded(pixels.data) if whole is None else whole
        yield one, Pixels(encode_image(_pixels_of(whole, one.crop), pixels.extension), pixels.extension)


def crops_of(image: ChosenImage, most: int | None) -> Iterator[ChosenImage]:
    """Yield the image, or its crops if it has more than `most` boxes (None: any number).

    Of a sample, crops without a box that is to be judged are excluded.
    """
    if most is None or len(image.detections) <= most:
        yield image
        return
    width, height = image.row["width"], image.row["height"]
    boxes = clip_to_image(image.detections.boxes, height=height, width=width)
    crops = cut_into_crops(boxes, width=width, height=height, most=most)
    if len(crops) == 1:
        yield image
        return
    for crop, places in crops:
        one = _cropped(image, replace(image.detections, boxes=boxes), crop, places)
        if one.sampled is None or one.sampled.boxes:
            yield one


def _cropped(image: ChosenImage, found: Detections, crop: TaskCrop, places: npt.NDArray[np.intp]) -> ChosenImage:
    """The image as if it had only these boxes, at their places in the crop."""
    mine = found[places]
    left, top = crop.window[:2]
    moved = mine.boxes - np.array([left, top, left, top], np.float32)  # exact: whole pixels, and nothing gets larger
    sampled = image.sampled
    if sampled is not None:
        stored = set(image.places[places].tolist())
        sampled = sampled.model_copy(update={"boxes": tuple(box for box in sampled.boxes if box.box in stored)})
    return replace(
        image,
        row={**image.row, "width": crop.width, "height": crop.height},
        detections=_with_masks_of(replace(mine, boxes=moved), crop),
        places=image.places[places],
        sampled=sampled,
        crop=crop,
    )


def _with_masks_of(found: Detections, crop: TaskCrop) -> Detections:
    if found.masks is None:
        return found
    return found.with_masks([None if mask is None else _mask_in(mask, crop) for mask in found.masks])


def _mask_in(mask: Mask, crop: TaskCrop) -> Mask:
    left, top, right, bottom = crop.window
    window = mask.decode()[top:bottom, left:right].astype(np.bool_).T
    return Mask.of_window(window, 0, 0, height=crop.height, width=crop.width, quality=mask.quality)


def _pixels_of(whole: npt.NDArray[np.uint8], crop: TaskCrop) -> npt.NDArray[np.uint8]:
    """The crop's pixels, its margin at half brightness: what is there belongs to another crop."""
    left, top, right, bottom = crop.window
    shown: npt.NDArray[np.uint8] = whole[top:bottom, left:right] // 2
    x0, y0, x1, y1 = crop.core
    shown[y0 - top : y1 - top, x0 - left : x1 - left] = whole[y0:y1, x0:x1]
    return shown

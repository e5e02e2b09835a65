"""Crops of crowded images, put together again before they are matched with the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labeler.corrections.reviewed import NEW, Intake, Reviewed, RowKey
from labeler.exports.crowded import CorrectedCrop, MergedImage, TaskCrop, merge_crops


def put_together(intake: Intake) -> None:
    """Replace the crops of each image by one image; one whose crops were not all reviewed counts as not reviewed.

    Crops of a sample are of single boxes: their image never counts as complete, and crops without such a box never
    went out.

    Raises:
        Refused: crops that are not of one image, or that do not say of which.
    """
    whole = [image for image in intake.images if image.crop is None]
    crops: dict[RowKey, list[tuple[TaskCrop, Reviewed]]] = {}
    for image in intake.images:
        if image.crop is not None and image.size not in (None, (image.crop.height, image.crop.width)):
            intake.problems.append(
                f"{image.where}: the crop is {image.crop.width} x {image.crop.height} in the export and has another "
                "size in the file; correct the copies that were exported"
            )
        elif image.crop is not None and image.row is not None:
            crops.setdefault(image.row, []).append((image.crop, image))
        elif image.crop is not None:
            intake.problems.append(f"{image.where}: a crop without `labeler_row` does not say of which image it is")
    for parts in crops.values():
        try:
            merged = merge_crops([_corrected(crop, image) for crop, image in parts])
        except ValueError as error:
            intake.problems.append(f"{parts[0][1].where}: {error}")
            continue
        if merged.missing and any(image.asked is None for _, image in parts):
            intake.unreviewed += 1
        else:
            whole.append(_image([image for _, image in parts], merged))
    intake.images = whole
    intake.refuse()


def _corrected(crop: TaskCrop, image: Reviewed) -> CorrectedCrop:
    places = image.places.tolist()
    ids = [None if place == NEW or place in places[:at] else str(place) for at, place in enumerate(places)]
    return CorrectedCrop(crop, image.boxes, ids)


def _image(parts: Sequence[Reviewed], merged: MergedImage) -> Reviewed:
    """Join one image of its parts; masks, which are of parts, are dropped."""
    shown, asked = [part.shown for part in parts], [part.asked for part in parts if part.asked is not None]
    return replace(
        parts[0],
        size=None,
        boxes=merged.boxes,
        labels=tuple(parts[part].labels[box] for part, box in merged.sources),
        places=np.array([NEW if id_ is None else int(id_) for id_ in merged.ids], np.int64),
        masks=None,
        shown=None if None in shown else frozenset().union(*(places for places in shown if places is not None)),
        asked=frozenset().union(*asked) if asked else None,
        crop=None,
        owners=(),
    )

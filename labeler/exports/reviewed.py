"""What goes to people who correct it has in common: whose image and box it is, boxes within the image, few names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.exports.formats import Frame
from labeler.exports.selection import ChosenImage
from labeler.exports.totals import ExportTotals
from labeler.labels.boxes import clip_to_image
from labeler.vocabulary import Category

ALL_LABELS, PRESENT_LABELS = "all", "present"
IMAGES_PER_TASKS = 1_000  # of a file of tasks: tools are slow with more


def identity(image: ChosenImage, frame: Frame) -> dict[str, Any]:
    """Return by what a corrected file finds its image again, whatever a tool makes of the file name.

    `labeler_shown` lists the boxes that go out: one that does not come back was removed by a person, any other not.
    Of a crop also which part of the image it is, and with a sample how its boxes were drawn.
    """
    found: dict[str, Any] = {
        "labeler_run": frame.run.manifest.run_id,
        "labeler_row": image.row_id,
        "labeler_digest": image.row["digest"] or "",
        "labeler_shown": " ".join(map(str, sorted(image.places.tolist()))),
    }
    if image.crop is not None:
        found["labeler_crop"] = image.crop.to_json()
    sample = frame.selection.sample
    return found if sample is None or image.sampled is None else found | sample.describe(image.sampled)


def clipped_boxes(image: ChosenImage) -> npt.NDArray[np.float64]:
    """(n, 4) xyxy in pixels, cut at the image's border."""
    row = image.row
    return clip_to_image(image.detections.boxes, height=row["height"], width=row["width"]).astype(np.float64)


def labels_shown(frame: Frame, totals: ExportTotals, labels: str) -> list[Category]:
    """Return the categories that a tool offers: all of the export's, or those with a box in it."""
    return [c for c in frame.categories if labels == ALL_LABELS or totals.category_boxes.get(c.id)]

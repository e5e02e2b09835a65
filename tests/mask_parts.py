"""Masks that fill their boxes, and a segmenter that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeler.labels.detections import Detections
from labeler.labels.masks import Mask
from labeler.segmenters.sam import Segmented

HEIGHT, WIDTH = 480, 640


@dataclass
class Filling:
    """A segmenter that fills every box; drawing the images of some widths loses their masks."""

    loses_width: int | None = None

    @property
    def description(self) -> dict[str, str]:
        return {"segmenter": "Filling", "segmenter_dtype": "none"}

    @property
    def memory_halvings(self) -> int:
        return 0

    def prepare(self, image_rgb: Any) -> Any:
        return image_rgb.shape[:2]

    def sketch(self, image: Any, detections: Detections) -> Any:
        return image, detections

    def draw(self, sketch: Any) -> Any:
        (height, width), found = sketch
        if width == self.loses_width:
            return Segmented(found, lost=len(found))
        return Segmented(found.with_masks([filled(box, height, width) for box in found.boxes]))


def filled(box: Sequence[float], height: int = HEIGHT, width: int = WIDTH, quality: float = 0.5) -> Mask:
    left, top, right, bottom = (int(side) for side in box)
    window = np.ones((right - left, bottom - top), np.bool_)
    return Mask.of_window(window, left, top, height=height, width=width, quality=quality)

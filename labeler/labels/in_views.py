"""From what is found in a view of an image to detections in the frame of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labeler.images.tiling import View
from labeler.labels.detections import Detections


def in_image(found: Detections, view: View) -> Detections:
    """Return the detections of a view, in pixels of its image, without those whose boxes an inner edge of the view
    cuts.

    Such a box shows a part of an object. It is dropped whether or not another view has the whole of it. An object
    within the overlap is whole in another tile, a larger one belongs to the full view, and half an object is a wrong
    label.

    Args:
        found: boxes in pixels of the view, clipped to it.
    """
    left, top, right, bottom = view.whole
    x_min, y_min, x_max, y_max = found.boxes.T
    whole = found[(x_min > left) & (y_min > top) & (x_max < right) & (y_max < bottom)]
    corner = np.array([view.left, view.top, view.left, view.top], np.float32)
    return replace(whole, boxes=whole.boxes + corner)

"""COCO's matching: each detection, best first, takes the free object that it overlaps most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
_HIGHEST = 1 - 1e-10  # cocoeval's: a threshold of 1 admits an overlap that rounding made a little less


def match_greedily(
    overlaps: npt.NDArray[np.float64], ignore: Flags, crowd: Flags, thresholds: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Return the object that each detection takes at each threshold: (images, thresholds, detections), -1 for none.

    A detection takes the object that it overlaps most, if by the threshold at least; of equal overlaps the last. One
    that does not count is taken only where none that counts is free; a crowd stays free.

    Args:
        overlaps: (images, detections, objects), detections by falling score; -1 where a pair is not allowed.
        ignore: (images, objects) objects that do not count.
        crowd: (images, objects) objects that any number of detections may take.
        thresholds: (thresholds,) above 0.
    """
    images, detections, objects = overlaps.shape
    limits = np.minimum(np.asarray(thresholds, np.float64), _HIGHEST)
    chosen = np.full((images, len(limits), detections), -1, np.int64)
    if not objects:
        return chosen
    preference = overlaps.argsort(2, kind="stable").argsort(2)  # the higher the better
    preference += objects * ~ignore[:, None]
    closed = np.zeros((images, len(limits), objects), np.bool_)
    for place in range(detections):
        possible = (overlaps[:, place, None] >= limits[:, None]) & ~closed
        best = np.where(possible, preference[:, place, None], -1).argmax(2)
        taken = possible & (np.arange(objects) == best[..., None])
        chosen[:, :, place] = np.where(taken.any(2), best, -1)
        closed |= taken & ~crowd[:, None]
    return chosen

"""Where a name goes beside its box: it covers no other name and no small object if there is room."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_FAR = 0.02  # what each line of distance from the box costs, beside what a tag covers
_RINGS = 5  # lines away from the box that are tried


class TagPlacer:
    """The layout of one image's name tags, in the order in which they are asked for.

    Args:
        size: width and height of the image in pixels.
        boxes: (n, 4) x_min, y_min, x_max, y_max of all objects; NaN for one that is not a box.
    """

    def __init__(self, size: tuple[int, int], boxes: Floats) -> None:
        self._size = size
        inside = np.clip(np.nan_to_num(boxes.reshape(-1, 4), nan=0.0, posinf=1e9, neginf=-1e9), 0, np.tile(size, 2))
        self._boxes = inside[(inside[:, 2:] > inside[:, :2]).all(1)]
        self._taken = np.zeros((0, 4))

    def place(self, box: Floats, width: int, height: int) -> tuple[Floats, bool]:
        """Return the tag's rectangle (4,), within the image if it fits there, and whether it is beside its box."""
        around = np.nan_to_num(box, nan=0.0, posinf=self._size[0], neginf=0.0)
        spots = [(ring, spot) for ring in range(_RINGS + 1) for spot in _spots(around, width, height, ring)]
        corners, distance = np.array([spot for _, spot in spots]), np.array([ring for ring, _ in spots])
        limits = np.maximum(np.array(self._size, np.float64) - (width, height), 0)
        start = np.clip(corners, 0, limits)
        tags = np.concatenate([start, start + np.array([width, height])], 1)
        best = int(np.argmin(self._cost(tags) + _FAR * distance))  # the first of the cheapest
        self._taken = np.concatenate([self._taken, tags[best : best + 1]])
        return tags[best], bool(distance[best] == 0)

    def _cost(self, tags: Floats) -> Floats:
        """Return (n,) the part of each tag that other names cover, and the largest part of any
        object that it covers.
        """
        area = (tags[0, 2] - tags[0, 0]) * (tags[0, 3] - tags[0, 1])
        names = _common(tags, self._taken).sum(1) / max(1.0, area)
        sides = self._boxes[:, 2:] - self._boxes[:, :2]
        objects = _common(tags, self._boxes) / np.maximum(1.0, sides.prod(1))
        return np.asarray(names + objects.max(1, initial=0.0))


def _spots(box: Floats, width: int, height: int, ring: int) -> list[tuple[float, float]]:
    """Upper left corners for a tag that many lines away from its box, the best first: above, below, beside, inside."""
    x0, y0, x1, y1 = (float(side) for side in box)
    away = ring * height
    above, below, before, behind = y0 - height - away, y1 + away, x0 - width - away, x1 + away
    spots = [(x, y) for x in (x0, x1 - width) for y in (above, below)]
    spots += [(x, y) for y in (y0, y1 - height) for x in (behind, before)]
    if ring:
        return spots + [(x, y) for y in (above, below) for x in (before, behind)]
    return [*spots, (x0, y0), (x0, y1 - height)]


def _common(a: Floats, b: Floats) -> Floats:
    """Return (n, m) areas that the rectangles (n, 4) and (m, 4) share."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.asarray(np.maximum(sides, 0).prod(-1))

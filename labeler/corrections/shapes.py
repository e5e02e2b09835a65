"""Shapes as CVAT and X-AnyLabeling have them, by corners: upright boxes, and what may stand for one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_UPRIGHT = 0.01  # pixels by which corners of an upright box may be off


def turned(corners: tuple[float, float, float, float], degrees: float) -> npt.NDArray[np.float64]:
    """(4, 2) corners of a box that was turned clockwise around its center."""
    left, top, right, bottom = corners
    center, turn = np.array([(left + right) / 2, (top + bottom) / 2]), math.radians(degrees)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    offsets = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) - center
    found: npt.NDArray[np.float64] = offsets @ matrix + center
    return found


def box_of(points: Any) -> list[float] | None:
    """Return xyxy of two opposite corners, or of the four corners of an upright box; None for other shapes."""
    corners = np.asarray(points, np.float64).reshape(-1, 2)
    low, high = corners.min(0), corners.max(0)
    if len(corners) not in (2, 4):
        return None
    on_border = (np.abs(corners - low) <= _UPRIGHT) | (np.abs(corners - high) <= _UPRIGHT)
    if not on_border.all() or (
        len(corners) == 4 and (high > low).all() and len(np.unique(corners > (low + high) / 2, axis=0)) != 4
    ):
        return None
    return [*low.tolist(), *high.tolist()]

"""The eight outlines, as polygons in a square from -1 to 1."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = list[tuple[float, float]]
_SUPERSAMPLING = 4


def _regular(corners: int, radius: float = 1.0, turn: float = -math.pi / 2) -> Points:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star() -> Points:
    outer, inner = _regular(5), _regular(5, 0.42, -math.pi / 2 + math.pi / 5)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _heart() -> Points:
    # The well-known curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled and centered.
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -(y + 2.5) / 17))
    return points


def _cross(arm: float = 0.32, end: float = 0.95) -> Points:
    quarter = [
        (-arm, -end),
        (arm, -end),
        (arm, -arm),
    ]  # the upper arm, clockwise; each next one is turned by 90 degrees
    return [turned for k in range(4) for turned in (_quarter_turn(point, k) for point in quarter)]


def _quarter_turn(point: tuple[float, float], times: int) -> tuple[float, float]:
    x, y = point
    for _ in range(times):
        x, y = -y, x
    return x, y


_PARTS: dict[str, tuple[Points, ...]] = {  # the first polygon, minus the second where there is one
    "circle": (_regular(64, 0.95),),
    "square": ([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)],),
    "triangle": (_regular(3),),
    "star": (_star(),),
    "cross": (_cross(),),
    "ring": (_regular(64, 0.95), _regular(64, 0.55)),
    "heart": (_heart(),),
    "arrow": ([(-0.95, -0.24), (0.1, -0.24), (0.1, -0.68), (1.0, 0.0), (0.1, 0.68), (0.1, 0.24), (-0.95, 0.24)],),
}


def cover(shape: str, radius_px: float, turn: float) -> npt.NDArray[np.float32]:
    """Return how much of each pixel the shape covers: (side, side) float32 in [0, 1], centered, side = 2 ceil(radius) +
    2.

    Args:
        shape: one of the eight names.
        radius_px: of the circle around it.
        turn: clockwise rotation in radians.
    """
    side = 2 * math.ceil(radius_px) + 2
    fine = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(fine)
    cos, sin, scale, centre = math.cos(turn), math.sin(turn), radius_px * _SUPERSAMPLING, side * _SUPERSAMPLING / 2
    for points, ink in zip(_PARTS[shape], (255, 0), strict=False):
        draw.polygon(
            [(centre + scale * (x * cos - y * sin), centre + scale * (x * sin + y * cos)) for x, y in points], fill=ink
        )
    return np.asarray(fine.reduce(_SUPERSAMPLING), np.float32) / np.float32(255)

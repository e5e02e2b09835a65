"""Box geometry: plain numpy functions on (n, 4) arrays, frames named."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def cxcywh_to_xyxy(boxes_cxcywh: npt.ArrayLike) -> Floats:
    """Center and size to two corners; (n, 4) float32 in the same unit as given."""
    cx, cy, width, height = np.asarray(boxes_cxcywh, np.float32).reshape(-1, 4).T
    return np.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], axis=1)


def xyxy_to_xywh(boxes_xyxy: npt.ArrayLike) -> Floats:
    """Convert two corners to the upper left corner and size, COCO's frame; (n, 4) float32."""
    x_min, y_min, x_max, y_max = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4).T
    return np.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=1)


def scale_to_pixels(boxes_normalized: npt.ArrayLike, *, height: float, width: float) -> Floats:
    """Convert boxes in parts of the image (0 to 1) to absolute pixels of a height x width image, any corner frame."""
    scale = np.array([width, height, width, height], np.float32)
    return np.asarray(boxes_normalized, np.float32).reshape(-1, 4) * scale


def clip_to_image(boxes_xyxy: npt.ArrayLike, *, height: int, width: int) -> Floats:
    """Clip boxes to the image border, 0 <= x <= width and 0 <= y <= height; one wholly outside
    ends with area 0.
    """
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(np.asarray(boxes_xyxy, np.float32).reshape(-1, 4), np.float32(0), limit)


def area(boxes_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (n,) areas in square units; 0 where a box has no width or no height."""
    return _area(_sides(boxes_xyxy))


def iou(first_xyxy: npt.ArrayLike, second_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (n, m) intersection over union, computed in float64; 0 where the union is empty."""
    first, second = _sides(first_xyxy)[:, :, None], _sides(second_xyxy)[:, None, :]  # (4, n, 1), (4, 1, m)
    overlap = _overlap(first, second)
    union = _area(first) + _area(second) - overlap
    parts: npt.NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return parts


def _overlap(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (n, m) areas of intersections, of sides (4, n, 1) and (4, 1, m)."""
    upper_left, lower_right = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])  # (2, n, m)
    width, height = np.maximum(lower_right - upper_left, 0)
    overlap: npt.NDArray[np.float64] = width * height
    return overlap


def _sides(boxes_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (4, n) left, top, right, bottom: whole rows are several times as fast to calculate with
    as columns of 4.
    """
    return np.ascontiguousarray(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4).T)


def _area(sides: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (...) areas of sides (4, ...)."""
    left, top, right, bottom = sides
    areas: npt.NDArray[np.float64] = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    return areas

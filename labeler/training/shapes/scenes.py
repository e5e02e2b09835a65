"""One scene: a background, 1 to 12 shapes that may hide each other in part, and the ground truth about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask
from PIL import Image

from labeler.errors import Refused
from labeler.training.shapes.combinations import ALL, COLOURS, Combination
from labeler.training.shapes.outlines import cover

# (width, height): few enough that images of one shape meet in a batch, since batches are never padded.
SIZES = (
    (192, 192), (256, 256), (320, 320),
    (256, 192), (320, 240), (192, 256), (240, 320),
    (288, 192), (192, 288),
)  # fmt: skip

RADII = (0.07, 0.24)  # least and greatest radius of an object, in parts of the image's shorter side

# Draws what is behind the objects, a new (height, width, 3) float32 in 0..255, from a generator, a height and a width;
# None keeps the plain background. It may draw from the generator as it likes: the objects do not depend on it.
Background = Callable[[np.random.Generator, int, int], npt.NDArray[np.float32] | None]

_MIN_VISIBLE = 0.4  # of an object's area must stay in sight, else the object that would hide it is placed again
_MIN_VISIBLE_PX = 60  # and that many pixels, or nobody could tell what it is
_LEAST_RADIUS_PX = 12  # of the largest object: a smaller star has fewer pixels than must be visible
_TRIES = 20
_NOISE = 6.0  # greatest standard deviation, of 255
_JITTER, _TINT = 12.0, 6.0  # half ranges, of all three channels together and of each by itself


@dataclass(frozen=True, eq=False)
class Scene:
    """One synthetic image and its ground truth; objects are in drawing order, later ones in front.

    Attributes:
        image: (height, width, 3) uint8 RGB.
        boxes_xyxy: (n, 4) float32 absolute pixels, tight around what is visible, as in COCO; the right and lower edges
            are exclusive (x_max = last visible column + 1).
        category_ids: (n,) int32.
        masks: n COCO RLEs `{"size": [height, width], "counts": str}` of what is visible; they never overlap.
    """

    image: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int32]
    masks: tuple[dict[str, Any], ...]


@dataclass
class _Canvas:
    """The scene while it is drawn."""

    pixels: npt.NDArray[np.float32]  # (height, width, 3), 0..255
    owner: npt.NDArray[np.int16]  # (height, width): index of the object seen there, -1 for the background
    areas: list[int] = field(default_factory=list)  # of each object, could it be seen in full
    category_ids: list[int] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)


def draw_scene(
    seed: int,
    index: int,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    combinations: Sequence[Combination] = ALL,
    max_objects: int = 12,
    radii: tuple[float, float] = RADII,
    background: Background | None = None,
) -> Scene:
    """Scene number `index` of a seed: the same forever and on its own, whatever else is drawn before or beside it.

    Args:
        seed: non-negative; two seeds have nothing in common.
        index: non-negative.
        sizes: (width, height) pairs in pixels, one of which is drawn; no side below 64.
        combinations: what may appear, each equally likely.
        max_objects: 1 to this many objects; fewer where they find no place.
        radii: least and greatest radius of an object in parts of the shorter side; with more than 5 objects the
            greatest is two thirds of it.
        background: what is behind the objects; None: a plain one. The objects are the same on any.

    Raises:
        Refused: for sizes or numbers that make no sense.
    """
    if seed < 0 or index < 0 or max_objects < 1 or not sizes or min(map(min, sizes)) < 64 or not combinations:
        raise Refused(
            f"shapes: seed={seed} and index={index} must be 0 or more, max_objects={max_objects} 1 or more, "
            f"sizes={list(sizes)} 64 pixels or more, and there must be combinations"
        )
    require_radii(radii, min(map(min, sizes)))
    rng = np.random.default_rng([seed, index])
    width, height = sizes[int(rng.integers(len(sizes)))]
    behind = _background(rng, height, width)  # drawn in any case: what follows from the generator stays the same
    if background is not None:
        other = background(np.random.default_rng([seed, index, 1]), height, width)
        behind = behind if other is None else other
    canvas = _Canvas(behind, np.full((height, width), -1, np.int16))
    wanted = int(rng.integers(1, max_objects + 1))
    while len(canvas.areas) < wanted:
        if not _place(rng, canvas, combinations[int(rng.integers(len(combinations)))], wanted, radii):
            wanted = max(1, wanted - 1)  # too crowded; only the very first is tried until it fits
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(0, _NOISE))
    image = np.clip(canvas.pixels + grain + 0.5, 0, 255).astype(np.uint8)
    boxes, masks = _truth(canvas)
    return Scene(image, boxes, np.asarray(canvas.category_ids, np.int32), masks)


def require_radii(radii: tuple[float, float], side: int) -> None:
    """Raise Refused unless objects of these radii find a place in an image whose shorter side has `side` pixels."""
    least, greatest = radii
    if not 0.02 <= least <= greatest * 2 / 3 <= 0.5 or greatest * side < _LEAST_RADIUS_PX:
        raise Refused(
            f"shapes: radii={list(radii)} is not valid; the first must be 0.02 or more, the second at least 1.5 times "
            f"the first, at most 0.75, and {_LEAST_RADIUS_PX} pixels or more in an image of {side}"
        )


def _place(
    rng: np.random.Generator, canvas: _Canvas, combination: Combination, crowd: int, radii: tuple[float, float]
) -> bool:
    """Draw one object in front of all others, at the first place that leaves each of them recognisable."""
    height, width = canvas.owner.shape
    short, (least, greatest) = min(height, width), radii
    for _ in range(_TRIES):
        radius = short * rng.uniform(least, greatest if crowd <= 5 else greatest * 2 / 3)
        alpha = cover(combination.shape, radius, rng.uniform(0, 2 * math.pi))
        side = len(alpha)
        margin = radius * 0.6  # so objects are cut by the border now and then
        left = int(rng.uniform(margin, max(margin + 1, width - margin)) - side / 2)
        top = int(rng.uniform(margin, max(margin + 1, height - margin)) - side / 2)
        area = int((alpha >= 0.5).sum())
        x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
        alpha = alpha[y0 - top : y1 - top, x0 - left : x1 - left]
        window = np.s_[y0:y1, x0:x1]
        if _fits(canvas, window, alpha >= 0.5, area, combination.colour):
            _paint(rng, canvas, window, alpha, combination, radius)
            canvas.areas.append(area)
            canvas.category_ids.append(combination.category_id)
            canvas.colours.append(combination.colour)
            return True
    return False


def _fits(canvas: _Canvas, window: Any, mask: npt.NDArray[np.bool_], area: int, colour: str) -> bool:
    """Return whether a new object would itself be visible, and all those behind it would stay so.

    Two of one color never overlap: nobody could tell where one ends.
    """
    if mask.sum() < max(_MIN_VISIBLE * area, _MIN_VISIBLE_PX):
        return False
    hidden = canvas.owner[window][mask]
    for other in np.unique(hidden[hidden >= 0]):
        if canvas.colours[other] == colour:
            return False
        left = int((canvas.owner == other).sum() - (hidden == other).sum())
        if left < max(_MIN_VISIBLE * canvas.areas[other], _MIN_VISIBLE_PX):
            return False
    return True


def _paint(
    rng: np.random.Generator,
    canvas: _Canvas,
    window: Any,
    alpha: npt.NDArray[np.float32],
    combination: Combination,
    radius: float,
) -> None:
    jitter = rng.uniform(-_JITTER, _JITTER) + rng.uniform(-_TINT, _TINT, 3)
    base = (np.asarray(COLOURS[combination.colour]) + jitter).astype(np.float32)
    ys, xs = np.mgrid[: alpha.shape[0], : alpha.shape[1]].astype(np.float32)
    ink = base + _texture(rng, ys, xs, radius)[..., None]  # (h, w, 3)
    canvas.pixels[window] += alpha[..., None] * (ink - canvas.pixels[window])
    canvas.owner[window][alpha >= 0.5] = len(canvas.areas)


def _texture(
    rng: np.random.Generator, ys: npt.NDArray[np.float32], xs: npt.NDArray[np.float32], radius: float
) -> npt.NDArray[np.float32]:
    """Return (h, w) of brightness to add: flat, shaded from one side, or faintly striped; too little to change the
    color.
    """
    kind, turn, depth = rng.integers(3), rng.uniform(0, 2 * math.pi), rng.uniform(8, 24)
    along = (xs * math.cos(turn) + ys * math.sin(turn)) / radius  # 2 from edge to edge
    if kind == 0:
        return np.zeros_like(along)
    if kind == 1:
        return np.asarray((along - along.mean()) * depth, np.float32)
    stripes = np.sin(along * 2 * math.pi * rng.uniform(1.5, 3.0)) > 0
    return np.asarray(np.where(stripes, depth, -depth), np.float32)


def _background(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return (height, width, 3) in 0..255: pale or grayish, so that every color of a shape stands out."""
    one, two = (_muted(rng) for _ in range(2))
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    turn, kind = rng.uniform(0, 2 * math.pi), rng.integers(6)
    along = xs * math.cos(turn) + ys * math.sin(turn)
    if kind == 0:  # flat
        mix = np.zeros_like(along)
    elif kind == 1:  # gradient
        mix = (along - along.min()) / max(1.0, float(np.ptp(along)))
    elif kind == 2:  # stripes
        mix = (np.sin(along * 2 * math.pi / rng.uniform(14, 60)) > 0) * 0.5
    elif kind == 3:  # checks
        across, step = -xs * math.sin(turn) + ys * math.cos(turn), rng.uniform(12, 40)
        mix = ((np.floor(along / step) + np.floor(across / step)) % 2) * 0.5
    elif kind == 4:  # clouds
        mix = _clouds(rng, height, width, int(rng.integers(3, 9)))
    else:  # grain
        mix = _clouds(rng, height, width, max(height, width) // 3)
    return np.asarray(one + mix.astype(np.float32)[..., None] * (two - one), np.float32)


def _muted(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return np.asarray(rng.uniform(120, 225) + rng.uniform(-18, 18, 3), np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> npt.NDArray[np.float32]:
    """Return (height, width) in [0, 1]: noise of about `cells` blobs along a side."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / np.float32(255)


def _truth(canvas: _Canvas) -> tuple[npt.NDArray[np.float32], tuple[dict[str, Any], ...]]:
    """Return ((n, 4) xyxy boxes, n RLEs), both of what is visible at the end."""
    n = len(canvas.areas)
    turned = np.ascontiguousarray(canvas.owner.T)  # so that what follows is in Fortran order, as pycocotools wants it
    visible = (turned[None] == np.arange(n)[:, None, None]).view(np.uint8).transpose(2, 1, 0)  # (height, width, n)
    boxes = np.zeros((n, 4), np.float32)
    for i in range(n):
        rows, columns = (np.flatnonzero(visible[..., i].any(axis)) for axis in (1, 0))
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    masks = tuple(
        {"size": list(r["size"]), "counts": r["counts"].decode("ascii")} for r in pycocotools.mask.encode(visible)
    )
    return boxes, masks

"""Backgrounds with the statistics of photographs, drawn: dead leaves, fractal noise, blurred blends and gradients.

Photographs have edges at every scale (things that hide each other, sizes by a power law), a spectrum that falls as 1/f,
parts out of focus, and now and then a strong color. A detector that has seen only plain backgrounds takes such edges
for objects. Nothing here is a photograph, so nothing has to be shipped.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from labeler.errors import Refused

Pixels = npt.NDArray[np.float32]  # (height, width, 3), 0..255

POOL = 256  # backgrounds of a seed; each scene shows a part of one, turned, in colors of its own
SIDE = 400  # of a background of the pool, in pixels: larger than any scene

_SMALLEST_LEAF = 0.012  # of the shorter side; leaves are that large up to `_LARGEST_LEAF`
_LARGEST_LEAF = 0.6
_POWER = (
    2.4  # density of sizes as 1/size^2.4: 3 is that of photographs, and most of its leaves too small to be seen here
)
_LEAVES = (60, 400)  # how many at least, and fewer than
_OBLONG = 0.2  # of the leaves are poles, rails and twigs
_MAX_BLUR = 0.015  # of the shorter side: Gaussian standard deviation of what is out of focus
_VIVID = 0.1  # of the colors are as strong as those of the shapes: color alone does not make an object
_KINDS = (0.35, 0.35, 0.15, 0.15)  # dead leaves, blends, fractal noise, gradients


@dataclass(frozen=True)
class Natural:
    """A background for `draw_scene`: natural in `share` of the scenes (0 to 1), plain in the others.

    The backgrounds are cut out of a pool of `POOL` per seed, each drawn when it is first needed and kept (0.5 MB each).

    Raises:
        Refused: if `share` is not between 0 and 1.
    """

    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise Refused(f"shapes: natural={self.share} is not a share of the scenes; use 0 to 1")

    def __call__(self, rng: np.random.Generator, height: int, width: int) -> Pixels | None:
        """Return (height, width, 3) float32 in 0..255, or None: keep the plain background."""
        if rng.random() >= self.share:
            return None
        return _cut(rng, _from_pool(self.seed, int(rng.integers(POOL))), height, width)


def natural_background(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Return (height, width, 3) float32 in 0..255, one of four kinds; the same for the same generator."""
    palette = _Palette(rng)
    kind = rng.choice(len(_KINDS), p=_KINDS)
    draw = (_dead_leaves, _blend, _fractal, _gradient)[kind]
    pixels = draw(rng, palette, height, width)
    light = _spectrum(rng, height, width, rng.uniform(0.8, 1.6)) * np.float32(rng.uniform(2, 28))
    return np.asarray(np.clip(pixels + light[..., None], 0, 255), np.float32)


@functools.lru_cache(maxsize=POOL)
def _from_pool(seed: int, number: int) -> npt.NDArray[np.uint8]:
    """Return (SIDE, SIDE, 3)."""
    pixels = natural_background(np.random.default_rng([seed, number, 1]), SIDE, SIDE)
    return pixels.astype(np.uint8)


def _cut(rng: np.random.Generator, whole: npt.NDArray[np.uint8], height: int, width: int) -> Pixels:
    """Return a part of `whole` anywhere, turned by quarters or mirrored, its channels swapped and its
    contrast changed.
    """
    if max(height, width) > min(whole.shape[:2]):
        whole = np.asarray(Image.fromarray(whole).resize((max(height, width),) * 2, Image.Resampling.BILINEAR))
    turned = np.rot90(whole, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    top, left = (int(rng.integers(most + 1)) for most in (turned.shape[0] - height, turned.shape[1] - width))
    part = turned[top : top + height, left : left + width, rng.permutation(3)].astype(np.float32)
    gain, shift = np.float32(rng.uniform(0.7, 1.2)), np.float32(rng.uniform(-20, 20))
    return np.asarray((part * gain + shift).clip(0, 255), np.float32)


class _Palette:
    """Colors that occur together: mostly dull, around a common hue and brightness."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._mean = rng.uniform(40, 210)
        self._spread = rng.uniform(20, 75)
        self._tint = rng.normal(0, 1, 3) * rng.exponential(14)
        self._chroma = rng.uniform(4, 26)

    def draw(self, count: int) -> npt.NDArray[np.float64]:
        """Return (count, 3), 0..255."""
        rng = self._rng
        gray = rng.normal(self._mean, self._spread, (count, 1))
        colors = gray + self._tint + rng.normal(0, self._chroma, (count, 3))
        vivid = rng.random(count) < _VIVID
        colors[vivid] = rng.uniform(0, 255, (int(vivid.sum()), 3))
        return np.asarray(colors.clip(0, 255))


def _gradient(rng: np.random.Generator, palette: _Palette, height: int, width: int) -> Pixels:
    """Return two to four colors a side, with smooth passages between them: sky, walls, tables."""
    rows, columns = (int(n) for n in rng.integers(2, 5, 2))
    coarse = palette.draw(rows * columns).astype(np.uint8).reshape(rows, columns, 3)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _fractal(rng: np.random.Generator, palette: _Palette, height: int, width: int) -> Pixels:
    """1/f noise from one color over a second to a third: foliage, stone, clouds."""
    low, middle, high = palette.draw(3).astype(np.float32)
    field = _spectrum(rng, height, width, rng.uniform(0.8, 1.8))[..., None]
    toward = np.where(field > 0, high - middle, low - middle)
    return np.asarray(middle + np.minimum(np.abs(field) / 2, 1) * toward, np.float32)


def _dead_leaves(rng: np.random.Generator, palette: _Palette, height: int, width: int) -> Pixels:
    """Opaque leaves, later ones in front: irregular or oblong polygons, their sizes by a power law."""
    count, power = int(rng.integers(*_LEAVES)), 1 - _POWER
    smallest, largest = ((min(height, width) * part) ** power for part in (_SMALLEST_LEAF, _LARGEST_LEAF))
    radius = (smallest + rng.random(count) * (largest - smallest)) ** (1 / power)
    center = rng.uniform(0, 1, (count, 2)) * (width, height)
    corners = rng.integers(3, 11, count)
    oblong = rng.random(count) < _OBLONG
    aspect = np.where(oblong, rng.uniform(0.01, 0.08, count), rng.uniform(0.15, 0.85, count))
    radius = np.where(oblong, 4 * radius, radius)
    turn, rough = rng.uniform(0, math.pi, count), rng.uniform(0, 0.35, count) * ~oblong
    outline = 1 + rough[:, None] * rng.uniform(-1, 1, (count, 10))
    colors = palette.draw(count).astype(np.uint8).tolist()
    image = Image.fromarray(_gradient(rng, palette, height, width).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for leaf in rng.permutation(count).tolist():
        n = int(corners[leaf])
        angles = np.arange(n) * (2 * math.pi / n)
        along = np.cos(angles) * outline[leaf, :n] * radius[leaf]
        across = np.sin(angles) * outline[leaf, :n] * radius[leaf] * aspect[leaf]
        cos, sin = math.cos(turn[leaf]), math.sin(turn[leaf])
        points = np.stack([along * cos - across * sin, along * sin + across * cos], 1) + center[leaf]
        pen.polygon(points.ravel().tolist(), fill=tuple(colors[leaf]))
    return _blurred(image, rng.uniform(0.3, 1.2))


def _blend(rng: np.random.Generator, palette: _Palette, height: int, width: int) -> Pixels:
    """Return something sharp in front of something out of focus, with a ragged edge between them."""
    far = _dead_leaves(rng, palette, height, width)
    blur = min(height, width) * rng.uniform(0.2, 1) * _MAX_BLUR
    far = _blurred(Image.fromarray(far.astype(np.uint8)), blur)
    near = (_fractal if rng.random() < 0.5 else _dead_leaves)(rng, palette, height, width)
    mask = _spectrum(rng, height, width, 2.0) * np.float32(rng.uniform(2, 12)) + np.float32(rng.uniform(-3, 3))
    weight = 1 / (1 + np.exp(-mask.clip(-30, 30)))
    return np.asarray(far + weight[..., None] * (near - far), np.float32)


def _blurred(image: Image.Image, sigma: float) -> Pixels:
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), np.float32)


def _spectrum(rng: np.random.Generator, height: int, width: int, exponent: float) -> npt.NDArray[np.float32]:
    """Return (height, width) of noise with amplitudes 1/f^exponent, mean 0, standard deviation 1."""
    down, right = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    squared = (down**2 + right**2).astype(np.float32)
    squared[0, 0] = np.inf  # no mean
    shape = squared.shape
    noise = rng.standard_normal(shape, np.float32) + np.complex64(1j) * rng.standard_normal(shape, np.float32)
    field = np.fft.irfft2(noise * squared ** np.float32(-exponent / 2), s=(height, width)).astype(np.float32)
    return np.asarray(field / max(float(field.std()), 1e-12), np.float32)

"""Tiles of large images: rectangles of one shape that overlap and cover an image, a function of its size alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

# of a tile's side: a box that ends this near to an inner edge may be of an object that continues beyond it
_EDGE = 0.01


@dataclass(frozen=True)
class View:
    """A rectangle of an image that a detector sees as an image of its own.

    Attributes:
        left, top, width, height: in pixels of the upright image.
        image_width, image_height: of that image, in the same pixels.
    """

    left: int
    top: int
    width: int
    height: int
    image_width: int
    image_height: int

    @property
    def whole(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in the view's own pixels: a box that reaches one of them is cut by an inner edge.

        Infinite where the view ends with the image, which cuts nothing off.
        """
        across, down = (math.ceil(_EDGE * side) for side in (self.width, self.height))
        return (
            across if self.left else -math.inf,
            down if self.top else -math.inf,
            self.width - across if self.left + self.width < self.image_width else math.inf,
            self.height - down if self.top + self.height < self.image_height else math.inf,
        )

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels at ({self.left}, {self.top})"


@dataclass(frozen=True)
class Tiling:
    """The images that are looked at in tiles, and their tiles.

    Attributes:
        side: of a tile, in pixels of the upright image; a side of the image that is shorter has tiles as long as it is.
        overlap: of neighbors at least, as a part of `side`, 0 to 0.9.
        min_side: images with a longer side than this are tiled; at least `side`.
        most: tiles of an image; those that need more are too large.
    """

    side: int
    overlap: float
    min_side: int
    most: int

    def applies(self, height: int, width: int) -> bool:
        """Return whether an image of this size is tiled."""
        return max(height, width) > self.min_side

    def tiles(self, height: int, width: int) -> int:
        """Return how many tiles an image of this size has; 0 where it is not tiled."""
        return len(self._starts(height)) * len(self._starts(width)) if self.applies(height, width) else 0

    def views_count(self, height: int, width: int) -> int:
        """Return how often the detector looks at an image of this size: once at each tile and once at all of it."""
        return self.tiles(height, width) + 1

    def problem(self, height: int, width: int) -> str:
        """Return why an image of this size is too large; "" where it is not."""
        tiles = self.tiles(height, width)
        if tiles <= self.most:
            return ""
        return f"too large: {width} x {height} is {tiles} tiles of {self.side} pixels, the limit is {self.most}"

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """The tiles of an image of this size, row by row, then all of it; empty where it is not tiled."""
        if not self.applies(height, width):
            return ()
        size = (min(self.side, width), min(self.side, height))
        starts = [(left, top) for top in self._starts(height) for left in self._starts(width)]
        tiles = [View(*start, *size, width, height) for start in starts]
        return (*tiles, View(0, 0, width, height, width, height))

    def _starts(self, length: int) -> range | list[int]:
        """Return where tiles begin along a side of an image: from its start to its end, as evenly as whole pixels
        allow.
        """
        if length <= self.side:
            return range(1)
        step = self.side - math.ceil(round(self.overlap * self.side, 6))  # rounded: 0.55 * 100 is 55.00000000000001
        gaps = math.ceil((length - self.side) / step)
        return [i * (length - self.side) // gaps for i in range(gaps + 1)]

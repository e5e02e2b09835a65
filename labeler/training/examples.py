"""One training image with its ground truth, and where they come from: synthetic scenes here, stored
images in `stored`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from labeler.detectors.preprocess import Preprocessing
from labeler.training.shapes import RADII, SIZES, Combination, Natural, draw_scene, require_radii


@dataclass(frozen=True, eq=False)
class Example:
    """One image, resized for the model.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        boxes: (n, 4) float32, cxcywh in parts of the image.
        category_ids: (n,) int64.
        negatives: ids known to be absent; None when every category that has no box is.
        instead_of: names of the images that cannot be read and that it stands for.
    """

    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]
    negatives: tuple[int, ...] | None = None
    instead_of: tuple[str, ...] = ()

    def mirrored(self) -> Example:
        """Left and right swapped."""
        boxes = self.boxes.copy()
        boxes[:, 0] = 1 - boxes[:, 0]
        return replace(self, pixels=np.ascontiguousarray(self.pixels[:, ::-1]), boxes=boxes)


class NoneReadable(Exception):
    """None of the images that could be in a batch can be read."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"none of {len(names)} images of one shape can be read")
        self.names = tuple(names)


class ExampleSource(Protocol):
    """Endless batches of examples of one shape: batch `step` is the same whenever it is asked for."""

    @property
    def stored_images(self) -> int:
        """Return how many images it reads, each of which may turn out to be unreadable; 0 if it draws them."""

    def batch(self, step: int, size: int, part: slice) -> list[Example]:
        """Examples `part` of the `size` ones of a step. Raises NoneReadable."""


def to_cxcywh(boxes_xyxy: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Absolute xyxy boxes to center and size in parts of the image, (n, 4) float32."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    scale = np.asarray([width, height], np.float32)
    return np.concatenate([(low + high) / 2 / scale, (high - low) / scale], 1).astype(np.float32)


class ShapesSource:
    """Scenes drawn on the fly."""

    stored_images = 0

    def __init__(
        self,
        preprocessing: Preprocessing,
        combinations: Sequence[Combination],
        *,
        seed: int,
        images: int | None = None,
        max_objects: int = 12,
        sizes: Sequence[tuple[int, int]] = SIZES,
        natural: float = 0.0,
        radii: tuple[float, float] = RADII,
    ) -> None:
        """
        Args:
            images: only that many different scenes; None for no end.
            sizes: (width, height) in pixels; scenes of one batch share the shape that they are resized to.
            natural: share of scenes before a natural background.
            radii: of the objects, as `draw_scene` takes them.

        Raises:
            Refused: if no object of these radii can be placed, or `natural` is not a share.
        """
        self._preprocessing = preprocessing
        self._combinations, self._seed, self._images, self._max_objects = combinations, seed, images, max_objects
        require_radii(radii, min(map(min, sizes)))
        self._sizes, self._radii = list(sizes), radii
        self._background = Natural(natural, seed) if natural else None

    def batch(self, step: int, size: int, part: slice) -> list[Example]:
        rng = np.random.default_rng([self._seed, step])
        shape = self._shape(self._sizes[int(rng.integers(len(self._sizes)))])
        sizes = [each for each in self._sizes if self._shape(each) == shape]
        first = step * size
        return [self._draw(first + place, sizes) for place in range(size)[part]]

    def _shape(self, size: tuple[int, int]) -> tuple[int, int]:
        return self._preprocessing.rule.target(size[1], size[0])

    def _draw(self, number: int, sizes: Sequence[tuple[int, int]]) -> Example:
        index = number if self._images is None else number % self._images
        scene = draw_scene(
            self._seed,
            index,
            sizes=sizes,
            combinations=self._combinations,
            max_objects=self._max_objects,
            radii=self._radii,
            background=self._background,
        )
        prepared = self._preprocessing.prepare(scene.image)
        boxes = to_cxcywh(scene.boxes_xyxy, prepared.height, prepared.width)
        return Example(prepared.pixels, boxes, scene.category_ids.astype(np.int64))

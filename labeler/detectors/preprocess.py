"""Make an image ready for a detector: resize on the CPU, exactly as the checkpoint's own Pillow processor or faster.

Only resizing happens here. The pixels stay uint8 (a quarter of the bytes of float32) and are normalized on the device.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from labeler.checkpoints import DetectorCheckpoint
from labeler.errors import LabelerError, Refused
from labeler.images.resizing import resize_rgb
from labeler.images.tiling import View
from labeler.prompts.image_rule import ImageRule

RESIZES = ("pillow", "torch")


class DetectError(LabelerError):
    """One image could not be detected on; `str()` is the reason, in one line. A value in a batch's results."""


@dataclass(frozen=True)
class Prepared:
    """One image, resized for the detector.

    Attributes:
        pixels: (h', w', 3) uint8 RGB at the detector's size, padded if its rule pads; or as decoded, where it
            is resized on the device.
        height, width: the size of the upright image it was made from, in pixels; boxes come back in this frame.
        canvas: (height, width) that it will have on the device, where that is not the size of `pixels`.
        view: what it is of a larger image; None where it is an image of its own.
        asked: ids of the categories that are looked for in it, ascending; None for all.
    """

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int
    canvas: tuple[int, int] | None = None
    view: View | None = None
    asked: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the detector's input."""
        return self.pixels.shape if self.canvas is None else (*self.canvas, 3)

    @property
    def group(self) -> Hashable:
        """Equal for images that can share a forward pass: those of one shape that are asked for the same names."""
        return self.shape if self.asked is None else (self.shape, self.asked)


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of images that a checkpoint expects.

    Attributes:
        rule: the checkpoint's own, perhaps with other edges.
        resize: "pillow", equal to the checkpoint's Pillow processor, or "torch", faster and up to one level off.
    """

    rule: ImageRule
    resize: str = "pillow"

    @staticmethod
    def of(
        checkpoint: DetectorCheckpoint, image_size: tuple[int, int] | None = None, *, resize: str = "pillow"
    ) -> Preprocessing:
        """Return the checkpoint's own settings, with another `image_size` (shortest, longest edge in pixels) if one is
        given.

        Raises:
            Refused: they are unusable, or do not go together.
        """
        rule = checkpoint.rule.with_edges(image_size)
        if resize not in RESIZES:
            raise Refused(f"resize is one of {', '.join(RESIZES)}; got {resize}")
        rule.require_resize(resize, checkpoint.name)
        return Preprocessing(rule, resize)

    def prepare(self, image_rgb: npt.NDArray[np.uint8], full_size: tuple[int, int] | None = None) -> Prepared:
        """Resize an upright (h, w, 3) uint8 RGB image. Thread-safe; other threads run meanwhile.

        Args:
            full_size: (height, width) of the image where it was decoded smaller; boxes come back in this frame.
        """
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
            raise ValueError(f"an image is (h, w, 3) uint8 RGB, got {image_rgb.shape} {image_rgb.dtype}")
        height, width = full_size or image_rgb.shape[:2]
        if self.rule.on_device:
            return Prepared(image_rgb, height, width, self.rule.canvas(height, width))
        resized = self._resized(image_rgb, *self.rule.target(height, width))
        return Prepared(self._filled(resized, *self.rule.canvas(height, width)), height, width)

    def _resized(self, image_rgb: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
        if image_rgb.shape[:2] == (height, width):
            return np.ascontiguousarray(image_rgb)
        if self.resize == "torch":
            from labeler.detectors.resize import resize_torch  # torch only where it is asked for

            return resize_torch(image_rgb, height, width)
        return resize_rgb(image_rgb, height, width, Image.Resampling(self.rule.resample))

    def _filled(self, pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
        if pixels.shape[:2] == (height, width):
            return pixels
        canvas = np.full((height, width, 3), self.rule.pad, np.uint8)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        return canvas

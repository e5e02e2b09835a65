"""Make an image ready for a segmenter: resize on the CPU, with Pillow, as the checkpoint's image processor would.

Only resizing happens here. The pixels stay uint8; they are normalized, and padded with zeros, on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from labeler.checkpoints import image_processor_config
from labeler.errors import Refused
from labeler.images.resizing import resize_rgb
from labeler.prompts.image_rule import mean_and_std, resample_of, scale_of
from labeler.prompts.sam3.family import HALF
from labeler.segmenters.checkpoint import SegmenterCheckpoint

_KEEPS_ASPECT = frozenset({"SamModel", "SamHQModel"})


@dataclass(frozen=True)
class PreparedForMasks:
    """One image, resized for the segmenter.

    Attributes:
        pixels: (h', w', 3) uint8 RGB, neither side longer than the model's.
        height, width: the size of the upright image it was made from, in pixels; boxes and masks are in this frame.
    """

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int


@dataclass(frozen=True)
class MaskPreprocessing:
    """The preprocessing that a checkpoint expects.

    Attributes:
        side: pixels of a side of the model's square input.
        keeps_aspect: True for SAM and SAM-HQ, where the longest edge becomes `side` and zeros fill the square to the
            right and below; False for SAM 2, where both edges become `side`.
        resample: Pillow's number of the filter.
        scale, mean, std: normalized = (pixel * scale - mean) / std, per RGB channel.
    """

    side: int
    keeps_aspect: bool
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(checkpoint: SegmenterCheckpoint) -> MaskPreprocessing:
        """Return the checkpoint's own settings. Refused where they do not fit the model."""
        config = image_processor_config(checkpoint.folder)
        if checkpoint.looks_for_phrases:
            config = {"image_mean": HALF, "image_std": HALF, **config}
        side, keeps_aspect = checkpoint.side, checkpoint.architecture in _KEEPS_ASPECT
        _require_side(config, side, checkpoint.name, keeps_aspect=keeps_aspect)
        mean, std = mean_and_std(config, checkpoint.name)
        resample = resample_of(config, checkpoint.name)
        return MaskPreprocessing(side, keeps_aspect, resample, scale_of(config), mean, std)

    def prepare(self, image_rgb: npt.NDArray[np.uint8]) -> PreparedForMasks:
        """Resize an upright (h, w, 3) uint8 RGB image. Thread-safe; Pillow lets other threads run meanwhile."""
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
            raise ValueError(f"an image is (h, w, 3) uint8 RGB, got {image_rgb.shape} {image_rgb.dtype}")
        height, width = image_rgb.shape[:2]
        new_height, new_width = self.resized_shape(height, width)
        if (new_height, new_width) == (height, width):
            return PreparedForMasks(np.ascontiguousarray(image_rgb), height, width)
        resized = resize_rgb(image_rgb, new_height, new_width, Image.Resampling(self.resample))
        return PreparedForMasks(resized, height, width)

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of an image on the model's input, without the padding.

        Rounded as transformers' `SamImageProcessor` does it, but a side never becomes 0, where theirs would fail.
        """
        if not self.keeps_aspect:
            return self.side, self.side
        scale = self.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def to_model(self, boxes_xyxy: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float64]:
        """Return (n, 4) boxes in pixels of the upright image -> in pixels of the model's input."""
        new_height, new_width = self.resized_shape(height, width)
        factors = np.array([new_width / width, new_height / height] * 2)
        scaled: npt.NDArray[np.float64] = boxes_xyxy.astype(np.float64) * factors
        return scaled


def _require_side(config: Mapping[str, Any], side: int, name: str, *, keeps_aspect: bool) -> None:
    """Raise Refused where the image processor's size is not the model's: positions would be off."""
    if not config.get("do_resize", True):
        raise Refused(f"masks.model: checkpoint {name}: do_resize is false, but the model takes one size only")
    expected = {"longest_edge": side} if keeps_aspect else {"height": side, "width": side}
    square = {"height": side, "width": side}
    size, padded = config.get("size") or expected, config.get("pad_size") or square
    if keeps_aspect and isinstance(size, int):
        size = {"longest_edge": size}
    if size != expected or (keeps_aspect and padded != square):
        shown = f"size {size}" + (f", pad_size {padded}" if keeps_aspect else "")
        raise Refused(f"masks.model: checkpoint {name}: the image processor's {shown} is not the model's {side} pixels")

"""Make an image ready for a detector: resize on the CPU, exactly as the checkpoint's own Pillow processor or faster.

Only resizing happens here. The pixels stay uint8 (a quarter of the bytes of float32) and are normalised on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from labeler.checkpoints import Checkpoint, image_processor_config
from labeler.errors import LabelerError, Refused

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZES = ("pillow", "torch")


class DetectError(LabelerError):
    """One image could not be detected on; `str()` is the reason, in one line. A value in a batch's results."""


@dataclass(frozen=True)
class Prepared:
    """One image, resized for the detector.

    Attributes:
        pixels: (h', w', 3) uint8 RGB at the detector's size.
        height, width: the size of the upright image it was made from, in pixels; boxes come back in this frame.
    """

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Images of one shape can share a forward."""
        return self.pixels.shape


@dataclass(frozen=True)
class Preprocessing:
    """How a checkpoint wants its images.

    Attributes:
        image_size: shortest and longest edge in pixels, as `resized_shape` takes them.
        resample: Pillow's number of the filter.
        scale, mean, std: normalised = (pixel * scale - mean) / std, per RGB channel.
        resize: "pillow", equal to the checkpoint's Pillow processor, or "torch", faster and up to one level off.
    """

    image_size: tuple[int, int]
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "pillow"

    @staticmethod
    def of(
        checkpoint: Checkpoint, image_size: tuple[int, int] | None = None, *, resize: str = "pillow"
    ) -> Preprocessing:
        """The checkpoint's own settings, with another `image_size` if one is given. Refused where they are unusable."""
        config = image_processor_config(checkpoint.folder)
        size = checkpoint.image_size if image_size is None else (int(image_size[0]), int(image_size[1]))
        if not 0 < size[0] <= size[1]:
            raise Refused(f"image_size is (shortest edge, longest edge) in pixels, 0 < shortest <= longest; got {size}")
        resample = int(config.get("resample", Image.Resampling.BILINEAR))
        if resize not in RESIZES:
            raise Refused(f"resize is one of {', '.join(RESIZES)}; got {resize}")
        if resize == "torch" and resample != Image.Resampling.BILINEAR:
            raise Refused(f"checkpoint {checkpoint.name} does not resize bilinearly: set detect.resize=pillow")
        mean, std = mean_and_std(config, checkpoint.name)
        scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
        return Preprocessing(size, resample, scale, mean, std, resize)

    def target_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an upright image of this size is resized to."""
        return resized_shape(height, width, *self.image_size)

    def prepare(self, image_rgb: npt.NDArray[np.uint8], full_size: tuple[int, int] | None = None) -> Prepared:
        """Resize an upright (h, w, 3) uint8 RGB image. Thread-safe; other threads run meanwhile.

        Args:
            full_size: (height, width) of the image where it was decoded smaller; boxes come back in this frame.
        """
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
            raise ValueError(f"an image is (h, w, 3) uint8 RGB, got {image_rgb.shape} {image_rgb.dtype}")
        height, width = full_size or image_rgb.shape[:2]
        return Prepared(self._resized(image_rgb, *self.target_shape(height, width)), height, width)

    def _resized(self, image_rgb: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
        if image_rgb.shape[:2] == (height, width):
            return np.ascontiguousarray(image_rgb)
        if self.resize == "torch":
            from labeler.detectors.resize import resize_torch  # torch only where it is asked for

            return resize_torch(image_rgb, height, width)
        return np.asarray(Image.fromarray(image_rgb).resize((width, height), Image.Resampling(self.resample)))


def resized_shape(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """(height, width) after resizing: the shorter side becomes `shortest_edge` unless the longer would pass the limit.

    The rounding is that of transformers' image processors (`get_size_with_aspect_ratio`): the shorter side is rounded,
    the longer truncated, and where the limit applies the longer follows from the shorter side before its rounding. A
    side never becomes 0, where theirs would fail.
    """
    short, long = min(height, width), max(height, width)
    exact_short = float(shortest_edge)
    if long / short * shortest_edge > longest_edge:
        exact_short = longest_edge * float(short) / long
    new_short = round(exact_short)
    # The order of operations is theirs: another order truncates to one pixel less for some sizes.
    new_long = long if new_short == short else int(exact_short * long / short)
    new_short, new_long = max(new_short, 1), max(new_long, 1)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def mean_and_std(config: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per RGB channel, from an image processor's settings; ImageNet's where they are not said."""
    if not config.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = tuple(float(value) for value in config.get("image_mean") or IMAGENET_MEAN)
    std = tuple(float(value) for value in config.get("image_std") or IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise Refused(f"checkpoint {name}: image_mean and image_std are three values each, std > 0; got {mean}, {std}")
    return mean, std

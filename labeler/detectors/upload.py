"""Prepared images to the device, as one tensor of pixels at the model's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.detectors.cuda import to_device
from labeler.detectors.gaussian import resize_in_square
from labeler.detectors.preprocess import Prepared, Preprocessing
from labeler.prompts import ImageRule


def upload(images: Sequence[Prepared], rule: ImageRule, device: torch.device) -> Tensor:
    """Return (images, h, w, 3) on the device, levels of 0 to 255, of images of one shape.

    uint8; float32 where the rule resizes on the device.
    """
    if not rule.on_device:
        return _moved_together([image.pixels for image in images], device)
    # One after the other: each has a size of its own, and is gone before the next comes.
    return torch.stack([resize_in_square(_moved(image.pixels, device), rule.size[0]) for image in images])


def model_input(image_rgb: npt.NDArray[np.uint8], rule: ImageRule, device: torch.device) -> Tensor:
    """Return (1, 3, h, w) float32: one upright image as the model takes it, resized and normalized."""
    pixels = upload([Preprocessing(rule).prepare(image_rgb)], rule, device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (rule.mean, rule.std))
    return ((pixels.permute(0, 3, 1, 2).float() * rule.scale - mean) / std).contiguous()


def _moved_together(images: Sequence[npt.NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Return images of one shape. For a GPU every image is copied once, into one pinned buffer."""
    together = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(images, out=together.numpy())
    return together.to(device, non_blocking=True)


def _moved(pixels: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    writable = np.require(pixels, requirements=["C", "W"])  # torch warns of what it could not write to
    return to_device(torch.from_numpy(writable), device)

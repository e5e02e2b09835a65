"""Prepared images to the device, as one tensor of pixels at the model's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.detectors.gaussian import resize_in_square
from labeler.detectors.preprocess import Prepared, Preprocessing
from labeler.prompts import ImageRule


def upload(images: Sequence[Prepared], rule: ImageRule, device: torch.device) -> Tensor:
    """(images, h, w, 3) on the device, levels of 0 to 255, of images of one shape.

    uint8; float32 where the rule resizes on the device.
    """
    if not rule.on_device:
        return _moved(np.stack([image.pixels for image in images]), device)
    # One after the other: each has a size of its own, and is gone before the next comes.
    return torch.stack([resize_in_square(_moved(image.pixels, device), rule.size[0]) for image in images])


def model_input(image_rgb: npt.NDArray[np.uint8], rule: ImageRule, device: torch.device) -> Tensor:
    """(1, 3, h, w) float32: one upright image as the model takes it, resized and normalized."""
    pixels = upload([Preprocessing(rule).prepare(image_rgb)], rule, device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (rule.mean, rule.std))
    return ((pixels.permute(0, 3, 1, 2).float() * rule.scale - mean) / std).contiguous()


def _moved(pixels: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # torch warns of what it could not write to
    if device.type == "cuda":  # from pinned memory: the copy runs beside what the GPU still has to do
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

"""torch's bilinear resize of uint8 images: faster than Pillow's, and at most one level of 255 away from it."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional


def resize_torch(image_rgb: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return (height, width, 3) uint8 from (h, w, 3) uint8. Thread-safe; other threads run meanwhile.

    The weights are Pillow's, in 16 bits instead of 22: no value differs by more than 1. (The bicubic filter, whose
    weights are not all positive, is up to 2 levels off; so there is none.)
    """
    _leave_cores_to_other_threads()
    image = np.require(image_rgb, requirements=["C", "W"])  # torch warns of what it could not write to
    # [None] first: only so are strides those of a batch with its channels last, which is the fast layout in and out.
    planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # (1, 3, h, w)
    resized = functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1)[0].numpy())


def _leave_cores_to_other_threads() -> None:
    """One torch thread in each decode thread: where torch splits a resize, they would fight over the same cores.

    The number belongs to the thread, but torch hands the last one set to threads that first use it later; so a
    detector with `threads` sets its own before it detects.
    """
    if threading.current_thread() is not threading.main_thread() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)

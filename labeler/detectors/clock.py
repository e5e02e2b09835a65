"""Time on a device, which goes on working while the host is told that it was asked to."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds_on(device: torch.device) -> Callable[[], float]:
    """A clock that is read when the device has done all that it was asked to do."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read

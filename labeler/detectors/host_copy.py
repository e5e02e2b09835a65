"""Results on their way from the device to the host, while the device already works on what comes next."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


class HostCopy:
    """One tensor's copy to the host, which begins at once and is waited for only when it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":  # into pinned memory: into any other the copy would make everyone wait
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            # One that does not block is waited for by spinning on a core.
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def numpy(self) -> npt.NDArray[Any]:
        """Wait for the copy, and for nothing that was started after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.numpy()

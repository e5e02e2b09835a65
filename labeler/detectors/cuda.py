"""How torch uses a GPU here: whether it can, how exactly it computes, and what happens when memory is short."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from labeler.errors import Refused


def why_no_cuda() -> str:
    """Return torch's version and CUDA's error if torch cannot use a GPU in this process; empty if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver is a warning to `is_available`; it is the error below
        if torch.cuda.is_available():
            return ""
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            reason = "no device is visible"
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
    return f"torch {torch.__version__}: {reason}"


def compute_exactly() -> None:
    """Have float32 products of float32 values (no TF32), and sums of halves in float32.

    torch's defaults round convolutions to 10 bits, and let a sum over thousands of positions be split into parts that
    are added up in half precision. These are settings of the process; without a GPU they change nothing.
    """
    torch.backends.cudnn.allow_tf32 = False
    products = torch.backends.cuda.matmul
    products.allow_tf32 = False
    products.allow_fp16_reduced_precision_reduction = False
    products.allow_bf16_reduced_precision_reduction = False


def compute_for_training() -> None:
    """Allow TF32 again: training in float32 is several times as fast with it, and its steps are noisier than that."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor there. To a GPU from pinned memory: the copy runs beside what the GPU still has to do."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@contextmanager
def memory_named(what: str) -> Iterator[None]:
    """Refuse in one line when the GPU's memory runs out inside.

    Args:
        what: was to be done, such as "load the model facebook/sam3".
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        reason = str(error).strip().splitlines()[0]
    raise Refused(
        f"the GPU has too little memory to {what}: {reason} Give each worker more of a GPU (ray.gpus_per_worker), end "
        "other processes on it, or use a GPU with more memory"
    )


def share_memory(part: float) -> None:
    """Limit this process to a part (0 to 1) of the GPU's memory, as workers that share a GPU have to."""
    if 0 < part < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(part)

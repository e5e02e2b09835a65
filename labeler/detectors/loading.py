"""Load a checkpoint's model: safetensors only, no code from the checkpoint, nothing left at random."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from labeler.checkpoints import Checkpoint
from labeler.checkpoints.library import check_transformers
from labeler.detectors.cuda import compute_exactly, memory_named
from labeler.errors import Refused

DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(checkpoint: Checkpoint, device: torch.device, *, buffers: bool = False) -> Any:
    """Return the checkpoint's transformers model on `device`, float32 and in eval mode.

    Args:
        buffers: they are weights too, and have to be in the files: SAM 2 keeps the frequencies of its positions so.

    Raises:
        Refused: the weights do not fit the config, or transformers cannot build it here.
    """
    compute_exactly()
    if device.type == "cuda":
        # Each deformable attention checks a tensor on the host, which waits for the GPU 12 times per forward pass.
        os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")
    model_class = _model_class(checkpoint.architecture)
    try:
        with no_progress_bars():
            model, loaded = model_class.from_pretrained(
                checkpoint.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a wrong config makes transformers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Refused(f"checkpoint {checkpoint.name} cannot be loaded: {reason}") from error
    needed = set(model.state_dict()) if buffers else {name for name, _ in model.named_parameters()}
    missing = sorted(needed.intersection(loaded["missing_keys"]))
    if missing:
        raise Refused(
            f"checkpoint {checkpoint.name} lacks {len(missing)} of the model's weights ({missing[0]}, ...); "
            "they would stay random: fetch or convert it again"
        )
    with memory_named(f"load the model {checkpoint.name}"):
        return model.to(device).eval().requires_grad_(False)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars out of the output of a program that has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU. Refused for a device that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise Refused(f"model.device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return chosen


def choose_half(dtype: str, device: torch.device) -> torch.dtype | None:
    """Dtype of the matrix products under autocast, None for float32. `auto`: float16 on a GPU, float32 on a CPU.

    float16 rather than bfloat16, because its finer steps swap the ranks of fewer queries.
    """
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else None
    if dtype not in DTYPES:
        raise Refused(f"model.dtype is auto, {', '.join(DTYPES)}; got {dtype}")
    return DTYPES[dtype]


def _model_class(architecture: str) -> Any:
    try:
        import transformers

        check_transformers()
        return getattr(transformers, architecture)
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        if "torchvision" in str(error):
            reason += "; torchvision does not match torch: uninstall it, labeler needs none"
        raise Refused(f"transformers cannot be used here: {reason}") from error

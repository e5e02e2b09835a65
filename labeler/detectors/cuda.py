"""Whether torch can use a GPU here, and why not."""

from __future__ import annotations

import warnings

import torch


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

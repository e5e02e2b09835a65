"""A forward pass made for many chunks: the arithmetic of Grounding DINO, rearranged; the results stay the same."""

from labeler.detectors.fast.forward import FastForward
from labeler.detectors.fast.kernels import kernels_for
from labeler.detectors.fast.support import why_unsupported

__all__ = ["FastForward", "kernels_for", "why_unsupported"]

"""A forward pass made for many chunks: the arithmetic of Grounding DINO, rearranged; the results stay the same."""

from labeler.detectors.grounding_dino.fast.forward import FastForward
from labeler.detectors.grounding_dino.fast.kernels import kernels_for
from labeler.detectors.grounding_dino.fast.support import why_unsupported

__all__ = ["FastForward", "kernels_for", "why_unsupported"]

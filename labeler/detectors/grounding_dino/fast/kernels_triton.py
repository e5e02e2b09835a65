"""`kernels` for a GPU. Importing this needs triton, which torch's CUDA builds bring along."""

from __future__ import annotations

from labeler.detectors.grounding_dino.fast.combine_triton import combine_triton
from labeler.detectors.grounding_dino.fast.kernels import Kernels
from labeler.detectors.grounding_dino.fast.sampling_triton import sample_triton
from labeler.detectors.grounding_dino.fast.softmax_triton import look_triton

TRITON = Kernels(sample_triton, combine_triton, look_triton)

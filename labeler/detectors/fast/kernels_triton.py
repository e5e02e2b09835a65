"""`kernels` for a GPU. Importing this needs triton, which torch's CUDA builds bring along."""

from __future__ import annotations

from labeler.detectors.fast.combine_triton import combine_triton
from labeler.detectors.fast.kernels import Kernels
from labeler.detectors.fast.sampling_triton import sample_triton
from labeler.detectors.fast.softmax_triton import two_softmaxes_triton

TRITON = Kernels(sample_triton, combine_triton, two_softmaxes_triton)

"""Run the GPU kernel on saved cases in triton's interpreter (TRITON_INTERPRET=1): "equal" or what differs, for each."""

from __future__ import annotations

import sys

import torch

from labeler.detectors.fast.sampling import Grid
from labeler.detectors.fast.sampling_triton import sample_triton

level_shapes, cases = torch.load(sys.argv[1])
for values, raw, boxes, expected, tolerance in cases:
    got = sample_triton(values, raw, boxes, Grid.of(level_shapes, 4, torch.device("cpu")))
    same = got.dtype == expected.dtype and torch.allclose(got.float(), expected.float(), atol=tolerance, rtol=tolerance)
    print("equal" if same else f"{got.dtype} {(got.float() - expected.float()).abs().max()}")

"""The parts of the measurement, in their order, with the seconds that each may take."""

from __future__ import annotations

from dataclasses import dataclass

TOTAL_S = 720
SETUP, CORRECTNESS, SPEED = "setup", "correctness", "speed"


@dataclass(frozen=True)
class Part:
    """One process of the measurement.

    Attributes:
        kind: a correctness part that fails makes the whole measurement fail.
        limit_s: after that many seconds its process is killed.
        function: `module:function` in this package; it takes a `Bench`.
    """

    name: str
    kind: str
    limit_s: int
    function: str
    does: str


PARTS = (
    Part("checkpoint", SETUP, 50, "bench:prepare", "draw a model of the published size; time one product and one copy"),
    Part("reference", CORRECTNESS, 45, "exactness:reference", "the split forward against transformers' own, float32"),
    Part("engines", CORRECTNESS, 60, "exactness:engines", "both engines and both kinds of kernels; half precision"),
    Part("recovery", CORRECTNESS, 60, "recovery:recovery", "overflow in halves, images in company, threads that share"),
    Part(
        "checks", CORRECTNESS, 90, "device_checks:checks", "tests/gpu_checks.py: kernels, graphs, memory that runs out"
    ),
    Part("start", SPEED, 60, "start:start", "a worker's start, and the time of each number of pairs"),
    Part("stages", SPEED, 75, "stages:stages", "backbone, pair and whole forward pass: host, device, launches"),
    Part("ways", SPEED, 70, "ways:eager", "the ways of benchmarks.forward, alternating"),
    Part("labeling", SPEED, 70, "labeling:labeling", "JPEG bytes to rows: 1, 4 and 15 chunks, CUDA graphs, resizing"),
    Part("decode", SPEED, 10, "labeling:decoding", "decoding and resizing on one core"),
    Part("sharing", SPEED, 60, "sharing:sharing", "two workers on one GPU, each with half of its memory"),
    Part("compiled", SPEED, 70, "ways:compiled", "transformers' forward compiled, against labeler"),
)
BY_NAME = {part.name: part for part in PARTS}

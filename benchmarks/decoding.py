"""What an image costs a decode thread, with Pillow and with the fast JPEG decoder: milliseconds of CPU, by size.

    python -m benchmarks.decoding --output benchmarks/results/decoding.json

Both decoders alternate, on one thread, in every round; first each image is compared to the bit. CPU time of the
thread, so that other programs cost little. The images are those of `benchmarks.feeding`: as heavy as a camera's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.feeding import PILLOW, TORCH, heavy_jpeg, prepare
from benchmarks.machine import machine
from labeler import images

SIZES = {"0.5 MP": (816, 612), "2 MP": (1632, 1224), "12 MP": (4000, 3000)}
Way = Callable[[], object]


def ways(data: bytes, fast: images.FastJpeg) -> dict[str, Way]:
    """Each way of decoding, and all that a decode thread does, by either decoder."""
    found: dict[str, Way] = {}
    for name, decoder in (("pillow", None), ("simplejpeg", fast)):
        found |= {
            f"decode, {name}": partial(images.decode, data, fast_jpeg=decoder),
            f"decode, draft, {name}": partial(images.decode, data, least_shape=PILLOW.rule.target, fast_jpeg=decoder),
            f"all, {name}": partial(prepare, data, PILLOW, fast_jpeg=decoder),
            f"all, torch, {name}": partial(prepare, data, TORCH, fast_jpeg=decoder),
            f"all, torch, draft, {name}": partial(prepare, data, TORCH, True, fast_jpeg=decoder),
        }
    return found


def measure(data: bytes, fast: images.FastJpeg, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU of each way, one entry a round."""
    for least_shape in (None, PILLOW.rule.target):
        alone, by_fast = (images.decode(data, least_shape=least_shape, fast_jpeg=each) for each in (None, fast))
        assert np.array_equal(alone.pixels, by_fast.pixels), "the decoders differ"
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, way in ways(data, fast).items():
            start = time.thread_time()
            way()
            took = 1000 * (time.thread_time() - start)
            if number:  # the first round warms up
                found.setdefault(name, []).append(took)
    return found


def prepared(
    description: str | None, sizes: list[str], argv: list[str] | None
) -> tuple[argparse.Namespace, images.FastJpeg]:
    """Parse the options of a measurement of both decoders; it has one thread, and ends if simplejpeg cannot be used."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=sizes, choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="JSON to write")
    fast = images.choose_fast_jpeg("auto")
    if fast is None:
        parser.error("simplejpeg is not installed, or differs from Pillow here")
    torch.set_num_threads(1)
    return parser.parse_args(argv), fast


def main(argv: list[str] | None = None) -> int:
    arguments, fast = prepared(__doc__, list(SIZES), argv)
    result: dict[str, Any] = {"machine": machine(), "decoders": images.decoders_text(fast), "sizes": {}}
    for name in arguments.sizes:
        data = heavy_jpeg(*SIZES[name])
        took = measure(data, fast, arguments.rounds)
        result["sizes"][name] = {"jpeg_bytes": len(data), "cpu_ms": took}
        _print(name, len(data), took)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _print(name: str, size: int, took: dict[str, list[float]]) -> None:
    print(f"\n{name}, {size / 1000:.0f} kB{'CPU ms':>22}{'min':>9}{'max':>9}")
    for way, values in took.items():
        print(f"{way:28}{statistics.median(values):9.1f}{min(values):9.1f}{max(values):9.1f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

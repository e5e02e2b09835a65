"""Where the time of a decode thread goes, and what resizing by strips saves: milliseconds of CPU, by size.

    python -m benchmarks.strips --output benchmarks/results/strips.json

Resizing with and without strips, alternating on one thread; first both are compared to the bit. Beside them what bounds
the rest: the decoder into memory that is there already, and at 1/8 of the size, which is nearly its Huffman decoding.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.decoding import SIZES, prepared
from benchmarks.feeding import PILLOW, TORCH, heavy_jpeg, prepare
from benchmarks.machine import machine
from labeler import images
from labeler.digests import digest_of
from labeler.images import resizing

Way = Callable[[], Any]


def whole(way: Way) -> Any:
    """Do it as if all images were smaller than a strip."""
    strip_bytes, resizing._STRIP_BYTES = resizing._STRIP_BYTES, 1 << 40
    try:
        return way()
    finally:
        resizing._STRIP_BYTES = strip_bytes


def ways(data: bytes, width: int, height: int, fast: images.FastJpeg) -> dict[str, Way]:
    """Parts of what a decode thread does, and all of it."""
    pixels, kept = images.decode(data, fast_jpeg=fast).pixels, np.empty((height, width, 3), np.uint8)
    resize = partial(PILLOW.prepare, pixels)
    assert np.array_equal(resize().pixels, whole(resize).pixels), "strips differ"
    decoder = partial(fast.module.decode_jpeg, data, "RGB", fastdct=False, fastupsample=False)
    by_pillow, by_fast = partial(prepare, data, PILLOW), partial(prepare, data, PILLOW, fast_jpeg=fast)
    return {
        "digest": partial(digest_of, data),
        "phash": partial(images.phash, pixels),
        "decode, simplejpeg": partial(images.decode, data, fast_jpeg=fast),
        "decode, simplejpeg, into memory that is there": partial(decoder, buffer=kept),
        "decode, simplejpeg, at 1/8": partial(decoder, min_height=-(-height // 8), min_width=-(-width // 8)),
        "resize, whole": partial(whole, resize),
        "resize, strips": resize,
        "all, pillow, whole": partial(whole, by_pillow),
        "all, pillow, strips": by_pillow,
        "all, simplejpeg, whole": partial(whole, by_fast),
        "all, simplejpeg, strips": by_fast,
        "all, torch, simplejpeg": partial(prepare, data, TORCH, fast_jpeg=fast),
        "all, torch, draft, simplejpeg": partial(prepare, data, TORCH, True, fast_jpeg=fast),
    }


def measure(here: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of CPU of each way, one entry a round."""
    took: dict[str, list[float]] = {name: [] for name in here}
    for number in range(rounds + 1):
        for name, way in here.items():
            start = time.thread_time()
            found = way()
            spent = 1000 * (time.thread_time() - start)
            del found
            if number:  # the first round warms up
                took[name].append(round(spent, 2))
    return took


def main(argv: list[str] | None = None) -> int:
    arguments, fast = prepared(__doc__, ["2 MP", "12 MP"], argv)
    result: dict[str, Any] = {"machine": machine(), "decoders": images.decoders_text(fast), "cpu_ms": {}}
    for name in arguments.sizes:
        took = measure(ways(heavy_jpeg(*SIZES[name]), *SIZES[name], fast), arguments.rounds)
        result["cpu_ms"][name] = took
        for way, values in took.items():
            print(f"{name:6} {way:46}{statistics.median(values):8.1f}{min(values):8.1f}{max(values):8.1f}", flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

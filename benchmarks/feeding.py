"""What one core takes to feed the detector: decoding, resizing, and all that a decode thread does with an image.

    python -m benchmarks.feeding --output benchmarks/results/feeding.json

Milliseconds per image, the ways alternate in every round. The JPEGs are made on the spot, of noise over gradients, so
that they are as heavy as a camera's; `--photos` takes a folder of real ones instead. The detector's size is 800 x 1333.
The last column is how many times as much two threads do as one: 2 where nothing holds them up.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from labeler import images
from labeler.detectors.preprocess import Preprocessing
from labeler.digests import digest_of
from labeler.prompts import ImageRule

SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "12 MP": (4000, 3000)}
DETECTOR_SIZE = (800, 1333)
PILLOW, TORCH = (Preprocessing(ImageRule("edges", DETECTOR_SIZE), resize) for resize in ("pillow", "torch"))
TWO_THREADS = 8  # images of each of two threads


def heavy_jpeg(width: int, height: int, seed: int = 0) -> bytes:
    """Noise of several sizes over gradients: about 2.5 bits a pixel, as a sharp photograph has at quality 90."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack([across / width, down / height, (across + down) / (width + height)], -1) * 160 + 40
    for cell in (1, 4, 16):
        noise = random.integers(-14, 15, (height // cell + 1, width // cell + 1, 3)).astype(np.float32)
        picture += noise.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def prepare(
    data: bytes, preprocessing: Preprocessing, draft: bool = False, fast_jpeg: images.FastJpeg | None = None
) -> Any:
    """All that a decode thread does with an image."""
    digest_of(data)
    least_shape = preprocessing.rule.target if draft else None
    image = images.decode(data, least_shape=least_shape, fast_jpeg=fast_jpeg)
    images.phash(image.pixels)
    return preprocessing.prepare(image.pixels, image.full_size)


def ways(data: bytes) -> dict[str, Callable[[], object]]:
    """What is measured, each on one image."""
    image = images.decode(data)
    drafted = images.decode(data, least_shape=PILLOW.rule.target)
    return {
        "decode": partial(images.decode, data),
        "decode, draft": partial(images.decode, data, least_shape=PILLOW.rule.target),
        "hashes": lambda: (digest_of(data), images.phash(image.pixels)),
        "resize, pillow": partial(PILLOW.prepare, image.pixels),
        "resize, torch": partial(TORCH.prepare, image.pixels),
        "resize, torch, of a draft": partial(TORCH.prepare, drafted.pixels, drafted.full_size),
        "all, pillow": partial(prepare, data, PILLOW),
        "all, torch": partial(prepare, data, TORCH),
        "all, pillow, draft": partial(prepare, data, PILLOW, True),
        "all, torch, draft": partial(prepare, data, TORCH, True),
    }


def measure(pictures: Iterable[bytes], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way, one entry an image and round."""
    found: dict[str, list[float]] = {}
    for data in pictures:
        here = ways(data)
        for way in here.values():
            way()  # warm up
        for _ in range(rounds):
            for name, way in here.items():
                start = time.perf_counter()
                way()
                found.setdefault(name, []).append(1000 * (time.perf_counter() - start))
    return found


def two_threads(data: bytes) -> dict[str, float]:
    """How many times as much two threads do as one; 2 where the interpreter's lock is let go and two cores are free."""
    found = {}
    with ThreadPoolExecutor(2) as pool:
        for name, way in ways(data).items():

            def some(way: Callable[[], object] = way) -> None:
                for _ in range(TWO_THREADS):
                    way()

            alone, both = float("inf"), float("inf")
            for _ in range(3):  # the best of three, alternating
                start = time.perf_counter()
                pool.submit(some).result()
                middle = time.perf_counter()
                for future in [pool.submit(some), pool.submit(some)]:
                    future.result()
                alone, both = min(alone, middle - start), min(both, time.perf_counter() - middle)
            found[name] = 2 * alone / both
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--images", type=int, default=2, help="of each size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs to take instead")
    parser.add_argument("--no-threads", action="store_true", help="skip the last column")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(), "detector_size": DETECTOR_SIZE, "sizes": {}}
    for name, pictures in _pictures(arguments).items():
        row: dict[str, Any] = {"jpeg_bytes": [len(data) for data in pictures]}
        row["ms"] = measure(pictures, arguments.rounds)
        row["two_threads"] = {} if arguments.no_threads else two_threads(pictures[0])
        result["sizes"][name] = row
        _print(name, row)
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _pictures(arguments: argparse.Namespace) -> dict[str, list[bytes]]:
    if arguments.photos:
        paths = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        return {"photos": [path.read_bytes() for path in paths]}
    return {name: [heavy_jpeg(*SIZES[name], seed) for seed in range(arguments.images)] for name in arguments.sizes}


def _print(name: str, row: dict[str, Any]) -> None:
    print(
        f"\n{name}, {statistics.mean(row['jpeg_bytes']) / 1000:.0f} kB{'ms':>22}{'min':>9}{'max':>9}{'2 threads':>11}"
    )
    for way, values in row["ms"].items():
        by = f"{row['two_threads'][way]:.2f}" if way in row["two_threads"] else ""
        print(f"{way:28}{statistics.median(values):9.1f}{min(values):9.1f}{max(values):9.1f}{by:>11}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

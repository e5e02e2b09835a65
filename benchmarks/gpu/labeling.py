"""As a worker labels: JPEG bytes in, rows out, decoding in threads beside the detector; and decoding alone."""

from __future__ import annotations

import io
import os
import statistics
import time
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import feeding
from benchmarks.gpu.bench import Bench, picture
from benchmarks.gpu.timing import fresh_memory, memory
from labeler.detectors import GroundingDino
from labeler.labeling.unit import UnitLabeler
from labeler.shards import Item

SIZES = [(480, 640), (480, 640), (640, 480), (427, 640), (426, 640), (640, 427), (375, 500), (500, 375), (612, 612)]
_BOXES = 200  # an image; random weights leave every query above the floor, and a real model about as many as this
_PLANS: list[tuple[int, dict[str, Any]]] = [
    (1, {}),
    (1, {"cuda_graphs": True}),
    (1, {"resize": "torch"}),
    (4, {"resize": "torch"}),
    (15, {"resize": "torch"}),
]


def items(count: int) -> list[Item]:
    """JPEGs of the sizes that photographs of COCO have; 40 of them, repeated."""
    data = [_jpeg(seed) for seed in range(min(count, 40))]
    return [Item(f"{n}.jpg", n, "mem://jpegs", None, None, data[n % len(data)]) for n in range(count)]


def _jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, SIZES[seed % len(SIZES)])).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def labeling(bench: Bench) -> None:
    count = 4 if bench.small else 320
    images = items(count)
    for chunks, options in _PLANS[:2] if bench.small else _PLANS:
        part = images[: max(12, count // chunks)]
        bench.journal.step("labeling", partial(_label, bench, chunks, options, part), needs_s=12)


def _label(bench: Bench, chunks: int, options: dict[str, Any], images: list[Item]) -> None:
    fresh_memory()
    detector = with_floor(bench, bench.detector(chunks, **options))
    labeler = UnitLabeler(detector, decode_threads=decode_threads())
    labeler.label("warm", images[: max(12, len(images) // 4)])
    cpu, began = time.process_time(), time.perf_counter()
    rows, work = labeler.label("measured", images)
    took = time.perf_counter() - began
    bench.journal.row(
        "labeling",
        chunks=chunks,
        options=options,
        images=len(images),
        images_per_s=round(len(images) / took, 2),
        cpu_s=round(time.process_time() - cpu, 2),
        decode_cpu_s=round(work.decode_s, 2),
        detect_s=round(work.detect_s, 2),
        batch_fill=work.batch_fill,
        status=dict(Counter(row.status for row in rows)),
        boxes=round(statistics.mean(len(row.detections) for row in rows), 1),
        pairs_per_batch=detector.pairs_per_batch,
        description=detector.description,
        **memory(),
    )


def with_floor(bench: Bench, detector: GroundingDino) -> GroundingDino:
    """Set the detector's floor so that about 200 boxes of an image are above it."""
    scores = np.sort(detector.detect([picture(0, SIZES[0])])[0].scores)
    if len(scores) > _BOXES:
        detector._floor = float(scores[-_BOXES])
    return detector


def decode_threads() -> int:
    return max(1, len(os.sched_getaffinity(0)) - 2)


def decoding(bench: Bench) -> None:
    """Milliseconds of one core for an image: `benchmarks.feeding`'s ways."""
    torch.set_num_threads(1)
    for name in ["640x480"] if bench.small else list(feeding.SIZES):
        found = feeding.measure([feeding.heavy_jpeg(*feeding.SIZES[name])], 2 if bench.small else 5)
        bench.journal.row("decoding", size=name, ms={way: round(min(ms), 2) for way, ms in found.items()})

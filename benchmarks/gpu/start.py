"""What a worker does before its first image, and how long it takes."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.timing import fresh_memory, memory
from labeler.config import MOST_PAIRS


def start(bench: Bench) -> None:
    # The first start builds triton's kernels, the second finds them.
    for number, options in enumerate([{}, {}, {"engine": "auto"}, {"cuda_graphs": True}, {"dtype": "float32"}]):
        if bench.small and number not in (0, 3):
            continue
        bench.journal.step("start of a worker", lambda n=number, o=options: _start(bench, n, o), needs_s=10)  # type: ignore[misc]
    bench.journal.step("numbers of pairs", lambda: _numbers_of_pairs(bench), needs_s=10)


def _start(bench: Bench, number: int, options: dict[str, Any]) -> None:
    fresh_memory()
    began = time.perf_counter()
    detector = bench.detector(1, **options)
    took_s = time.perf_counter() - began
    began = time.perf_counter()
    detector.detect(bench.pictures(1))
    bench.journal.row(
        "start of a worker",
        number=number,
        options=options,
        took_s=round(took_s, 2),
        first_image_s=round(time.perf_counter() - began, 2),
        description=detector.description,
        pairs_per_batch=detector.pairs_per_batch,
        images_per_forward=detector.images_per_forward,
        **memory(),
    )


def _numbers_of_pairs(bench: Bench) -> None:
    detector, pairs = bench.detector(1, pairs_per_batch=1), 1
    while pairs <= (2 if bench.small else MOST_PAIRS):
        fresh_memory()
        seconds = min(detector._seconds_of(pairs) for _ in range(3))
        bench.journal.row("pairs at once", pairs=pairs, ms_a_pair=round(1000 * seconds / pairs, 3), **memory())
        pairs *= 2

"""The ways of `benchmarks.forward` on this device, with the same weights, alternating."""

from __future__ import annotations

import statistics
from functools import partial

import torch

from benchmarks import forward
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.timing import fresh_memory

# (chunks, images at once, which ways): b and b' of 15 chunks are 31 passes
_PLAN = [(1, 1, "bb'cde"), (1, 8, "cde"), (4, 1, "bb'cd"), (15, 1, "bb'cd")]
_SMALL_PLAN = [(1, 1, "bb'cd"), (2, 1, "bb'cd")]


def eager(bench: Bench) -> None:
    """c is not compiled."""
    stock = forward.StockModels(bench.folder, bench.device, compiled=False)
    for chunks, images, only in _SMALL_PLAN if bench.small else _PLAN:
        bench.journal.step(f"{chunks} chunks", partial(_measure, bench, stock, chunks, images, only), needs_s=15)


def compiled(bench: Bench) -> None:
    """c as `torch.compile` makes it, which takes minutes for each shape: a careful user with images of one size."""
    stock = forward.StockModels(bench.folder, bench.device, compiled=bench.on_gpu)
    bench.journal.step("1 chunk", partial(_measure, bench, stock, 1, 1, "cd", compiled=bench.on_gpu), needs_s=15)


def _measure(
    bench: Bench, stock: forward.StockModels, chunks: int, images: int, only: str, compiled: bool = False
) -> None:
    fresh_memory()
    rounds = 2 if bench.small else 3
    pictures = bench.pictures((rounds + 1) * images, bench.sizes[:1])
    batches = [pictures[start : start + images] for start in range(0, len(pictures), images)]
    names = bench.names(chunks)
    found = forward.ways(bench.folder, names, bench.sizes[0], stock, only, None, images)
    rows = forward.measure(found, batches, bench.device)
    ours = rows["d"]["median_s"]
    for name, row in rows.items():
        bench.journal.row(
            "way",
            way=name,
            chunks=chunks,
            images=images,
            names=len(names),
            compiled=compiled,
            passes=row["passes"],
            ms_an_image=[round(1000 * seconds, 2) for seconds in row["seconds"]],
            median_ms=round(1000 * statistics.median(row["seconds"]), 3),
            d_is_faster_by=round(row["median_s"] / ours, 2),
        )
    del found
    if bench.on_gpu:
        torch.cuda.empty_cache()

"""Where the CPU time of a forward pass goes: each operation against the rates of a product and a copy here.

    python -m benchmarks.traffic --output benchmarks/results/traffic-cpu.json

One thread, in CPU seconds of its own, so that a machine that others use gives similar shares. The rate of one large
product and the bandwidth of a copy that fits into no cache are measured between the rounds, medians of all: `least` is
the larger of operations over that rate and bytes over that bandwidth. What an operation takes beyond its least is
neither: calls, new pages of memory, reads in no order, exponentials, products too small or too narrow for the rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.forward import prefix
from benchmarks.machine import machine
from benchmarks.predict import Counted
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.profiling import instrumented
from labeler.detectors.ranges import Ranges
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

_COPY = 64 * 2**20  # float32 values; more than any cache holds
_SIDE = 1536  # of the product
_SHOWN = 14


@dataclass
class Cost:
    """What the operations of one kind took.

    Attributes:
        seconds: of the CPU.
        size: bytes that they read and write.
        least_s: operations at the product's rate, or bytes at the copy's bandwidth.
    """

    calls: float = 0
    seconds: float = 0.0
    operations: float = 0.0
    size: float = 0.0
    least_s: float = 0.0


class Timed(Counted):  # type: ignore[no-untyped-call]
    """Counts as `Counted`, with the CPU seconds of each operation.

    Attributes:
        costs: by part, operation and its output's shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[tuple[str, str, tuple[int, ...]], Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known, start = len(self.rows), time.thread_time()
        out = function(*args, **(kwargs or {}))
        seconds = time.thread_time() - start
        self.count(function, args, kwargs, out)
        if len(self.rows) > known:
            part, name, operations, size, _ = self.rows[-1]
            first = out[0] if isinstance(out, tuple | list) else out
            cost = self.costs[part, name, tuple(first.shape)]
            cost.calls += 1
            cost.seconds += seconds
            cost.operations += operations
            cost.size += size
        return out

    @contextmanager
    def mark(self, part: str) -> Iterator[None]:
        """What runs within is of this part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before


def copy_bandwidth() -> float:
    """Bytes a second that one thread reads and writes while it copies, in CPU seconds."""
    source = torch.zeros(_COPY)
    target = torch.zeros_like(source)
    start = time.thread_time()
    target.copy_(source)
    return 2 * 4 * _COPY / (time.thread_time() - start)


def product_rate() -> float:
    """Floating-point operations a second of one large product of one thread, in CPU seconds."""
    first, second = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    start = time.thread_time()
    _ = first @ second
    return float(2 * _SIDE**3 / (time.thread_time() - start))


def measure(detector: GroundingDino, image: np.ndarray, rounds: int) -> tuple[Timed, float, float]:
    """All passes of one image, the mean of the rounds; the rate of a product and the bandwidth of a copy."""
    timed = Timed()
    rates, bandwidths = [], []
    with torch.no_grad():  # under `inference_mode` a linear layer would be one operation, which no table knows
        pixels = detector._passes.upload([detector.prepare(image)])
        detector._passes(pixels)
        for _ in range(rounds):
            rates += [product_rate() for _ in range(5)]
            bandwidths += [copy_bandwidth() for _ in range(3)]
            with instrumented(detector, Ranges(time.thread_time, mark=timed.mark)), timed:
                detector._passes(pixels)
        rates += [product_rate() for _ in range(5)]
    rate, bandwidth = statistics.median(rates), statistics.median(bandwidths)
    for cost in timed.costs.values():
        for field, value in asdict(cost).items():
            setattr(cost, field, value / rounds)
        cost.least_s = max(cost.operations / rate, cost.size / bandwidth)
    return timed, rate, bandwidth


def grouped(timed: Timed, key: Callable[[tuple[str, str, tuple[int, ...]]], str]) -> dict[str, Cost]:
    """Sums by whatever `key` makes of a part, an operation and a shape; the longest first."""
    sums: dict[str, Cost] = defaultdict(Cost)
    for found, cost in timed.costs.items():
        total = sums[key(found)]
        for field, value in asdict(cost).items():
            setattr(total, field, getattr(total, field) + value)
    return dict(sorted(sums.items(), key=lambda item: -item[1].seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint folder; default: random weights at full size")
    parser.add_argument("--bert-vocabulary", type=Path, help="vocab.txt for the random checkpoint")
    parser.add_argument("--chunks", type=int, default=1, help="of LVIS names")
    parser.add_argument("--edges", type=int, nargs=2, default=(256, 341), help="height and width")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.model or Path(temporary)
        names = [category.name for category in Vocabulary.load("lvis_v1").categories]
        if asked.model is None:
            create_checkpoint(
                folder, words=names, vocab_file=asked.bert_vocabulary, kind="original", size="full", redraw=True
            )
        size = (asked.edges[0], asked.edges[1])
        chosen = prefix(names, Tokenizer.load(folder), asked.chunks)
        detector = GroundingDino(folder, chosen, device="cpu", engine="fast", image_size=size, threads=1)
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        timed, rate, bandwidth = measure(detector, image, asked.rounds)
    print(f"{machine()}\none product: {rate / 1e9:.0f} GF/s; one copy: {bandwidth / 1e9:.1f} GB/s; one thread")
    result: dict[str, Any] = {
        "machine": machine(),
        "image": size,
        "chunks": asked.chunks,
        "matmul_flops": rate,
        "copy_bytes_s": bandwidth,
    }
    keys: dict[str, Callable[[tuple[str, str, tuple[int, ...]]], str]] = {
        "by part": lambda found: found[0],
        "products and the rest": lambda found: _kind(found[1]),
        "by operation": lambda found: found[1],
        "by operation and shape": lambda found: f"{found[0]}: {found[1]} {' x '.join(map(str, found[2]))}",
    }
    for title, key in keys.items():
        found = grouped(timed, key)
        result[title] = {name: asdict(cost) for name, cost in found.items()}
        _print(title, found, rate, bandwidth)
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(result, indent=1) + "\n")


def _kind(operation: str) -> str:
    products = ("addmm", "baddbmm", "bmm", "mm", "convolution", "_scaled_dot_product_flash_attention_for_cpu")
    return "products, convolutions and attention" if operation in products else "what lies between them"


def _print(title: str, found: dict[str, Cost], rate: float, bandwidth: float) -> None:
    total = sum(cost.seconds for cost in found.values())
    least = sum(cost.least_s for cost in found.values())
    head = f"{title}, {1000 * total:.0f} ms, of which {least / total:.0%} is the least"
    print(f"\n{head:64}{'calls':>7}{'share':>8}{'ms':>9}{'least':>9}{'of rate':>9}{'of copy':>9}")
    for name, cost in list(found.items())[:_SHOWN]:
        of_rate, of_copy = cost.operations / cost.seconds / rate, cost.size / cost.seconds / bandwidth
        print(
            f"{name:64}{cost.calls:7.0f}{cost.seconds / total:8.1%}{1000 * cost.seconds:9.1f}"
            f"{1000 * cost.least_s:9.1f}{of_rate:9.0%}{of_copy:9.0%}"
        )


if __name__ == "__main__":
    main()

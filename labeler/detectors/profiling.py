"""Where a detector's time and arithmetic go, part by part. Nothing of it is in the detector's own code.

While `instrumented`, the detector's parts are replaced by ones that note when they begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from labeler.detectors.batched import BatchedDetector
from labeler.detectors.clock import seconds_on
from labeler.detectors.network import BACKBONE
from labeler.detectors.ranges import Ranges, Within, replaced

RESIZE = "resize"  # on a decode thread
PER_IMAGE = (RESIZE, "normalize", BACKBONE)  # in the order of a forward pass; what is paid once a pass follows
SCORING, MERGE = "scoring", "merge"


def per_pass(detector: BatchedDetector) -> tuple[str, ...]:
    """Return the parts that are paid once a pass."""
    return (*detector.network.pass_parts, SCORING)


@contextmanager
def instrumented(detector: BatchedDetector, ranges: Ranges) -> Iterator[None]:
    """The detector's parts are ranges meanwhile, named as in `PER_IMAGE`, `per_pass` and `MERGE`."""
    passes = detector._passes
    with ExitStack() as stack:
        stack.enter_context(replaced(detector, "_recorded", None))  # a replay has no parts
        stack.enter_context(replaced(passes, "score", Within(passes.score, SCORING, ranges)))
        for owner, method, name in (
            (detector, "prepare", RESIZE),
            (detector, "prepare_view", RESIZE),
            (passes, "normalize", "normalize"),
            (detector, "_finish", MERGE),
            (detector, "merge_views", MERGE),
        ):
            stack.enter_context(replaced(owner, method, ranges.within(name, getattr(owner, method))))
        stack.enter_context(detector.network.instrumented(ranges))
        yield


@contextmanager
def counted_operations() -> Iterator[Callable[[], float]]:
    """A meter of the floating-point operations of products, convolutions and attention meanwhile."""
    fused = getattr(torch.ops.aten, "_addmm_activation", None)  # which torch's own table excludes
    mapping = {fused: _product_operations} if fused is not None else None
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        yield lambda: float(counter.get_total_flops())


def _product_operations(bias: Any, rows: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Of shapes (out,), (n, in), (in, out)."""
    return 2 * int(rows[0]) * int(rows[1]) * int(weight[1])


@contextmanager
def traced(file: str) -> Iterator[Callable[[str], AbstractContextManager[Any]]]:
    """Write a Chrome trace of what runs meanwhile; gives what marks a range in it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        yield torch.profiler.record_function
    profiler.export_chrome_trace(file)


def time_text(detector: BatchedDetector) -> float:
    """Return seconds to encode the text of all passes, which a worker does once."""
    clock = seconds_on(detector.device)
    with torch.inference_mode():
        start = clock()
        detector.network.encode_text()
        return clock() - start


def reached_rate(detector: BatchedDetector) -> float:
    """`matmul_rate` on the detector's device, in the dtype of its products."""
    return matmul_rate(detector.device, detector.network.half)


def matmul_rate(
    device: torch.device, half: torch.dtype | None = None, clock: Callable[[], float] | None = None
) -> float:
    """Floating-point operations a second that one large product reaches here: the peak.

    Args:
        half: dtype of the product, None for float32.
        clock: seconds, when the device is done; None for the wall clock.
    """
    size = 8192 if device.type == "cuda" else 1536
    first, second = (torch.randn(size, size, device=device, dtype=half or torch.float32) for _ in range(2))
    clock, best = clock or seconds_on(device), float("inf")
    for _ in range(5):
        start = clock()
        _ = first @ second
        best = min(best, clock() - start)
    return 2 * size**3 / best

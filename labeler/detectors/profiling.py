"""Where a detector's time and arithmetic go, part by part. Nothing of it is in the detector's own code.

While `instrumented`, the detector's parts are replaced by ones that note when they begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from labeler.detectors.clock import seconds_on
from labeler.detectors.grounding_dino.detector import GroundingDino
from labeler.detectors.grounding_dino.fast import FastForward

# In the order of a forward; what is paid once a pass, that is for each pair of image and chunk, stands apart.
PER_IMAGE = ("resize", "normalize", "image backbone")
PER_PASS = (
    "encoder: fusion",
    "encoder: text",
    "encoder: deformable",
    "encoder: feed-forward",
    "encoder: norms",
    "query selection",
    "decoder",
    "scoring",
)
MERGE = "merge"


class Ranges:
    """What a meter counts, by the innermost range that is open meanwhile; so the parts add up to the whole.

    Of one thread only.

    Attributes:
        parts: name -> what the meter counted in it.
    """

    def __init__(
        self, meter: Callable[[], float], *, mark: Callable[[str], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        """
        Args:
            meter: a reading that grows: seconds, or operations.
            mark: makes a context for each range, such as `torch.profiler.record_function`.
        """
        self.parts: dict[str, float] = {}
        self._meter, self._mark = meter, mark
        self._open: list[str] = []
        self._last = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is counted within goes to `name`, but for the ranges opened inside."""
        self._charge()
        self._open.append(name)
        try:
            with self._mark(name):
                yield
        finally:
            self._charge()
            self._open.pop()

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, as a range of that name."""

        def counted(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return call(*args, **options)

        return counted

    def _charge(self) -> None:
        now = self._meter()
        if self._open:
            self.parts[self._open[-1]] = self.parts.get(self._open[-1], 0.0) + now - self._last
        self._last = now


class _Within:
    """An object all of whose calls and methods are ranges of one name."""

    def __init__(self, inner: Any, name: str, ranges: Ranges) -> None:
        self._inner, self._name, self._ranges = inner, name, ranges

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._ranges.within(self._name, self._inner)(*args, **options)

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._inner, attribute)
        return self._ranges.within(self._name, value) if callable(value) else value


@contextmanager
def replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """One object's attribute is another for a while; its class and other objects stay as they are."""
    own = vars(owner)
    before = (own[attribute],) if attribute in own else ()
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if before:
            setattr(owner, attribute, before[0])
        else:
            delattr(owner, attribute)


@contextmanager
def instrumented(detector: GroundingDino, ranges: Ranges) -> Iterator[None]:
    """The detector's parts are ranges meanwhile, named as in `PER_IMAGE`, `PER_PASS` and `MERGE`."""
    passes, forward = detector._passes, detector._passes.forward
    with ExitStack() as stack:
        stack.enter_context(replaced(detector, "_recorded", None))  # a replay has no parts
        stack.enter_context(replaced(passes, "score", _Within(passes.score, "scoring", ranges)))
        for owner, method, name in _methods(detector):
            stack.enter_context(replaced(owner, method, ranges.within(name, getattr(owner, method))))
        if isinstance(forward, FastForward):
            layers = [_fast_layer(layer, ranges) for layer in forward._encoder]
            stack.enter_context(replaced(forward, "_encoder", layers))
        yield


def _methods(detector: GroundingDino) -> Iterator[tuple[Any, str, str]]:
    """(object, its method, the part it is) of either engine."""
    forward = detector._passes.forward
    yield detector, "prepare", "resize"
    yield detector._passes, "normalize", "normalize"
    yield detector, "_finish", MERGE
    yield forward, "encode_image", "image backbone"
    yield forward, "detect", "decoder"  # with the heads; the ranges inside are taken out of it
    if isinstance(forward, FastForward):
        yield forward, "_encode", "encoder: norms"
        yield forward, "_propose", "query selection"
        return
    yield forward, "_select_queries", "query selection"
    encoder = forward.model.encoder
    yield encoder, "forward", "encoder: norms"
    for layer in encoder.layers:
        yield layer.fusion_layer, "forward", "encoder: fusion"
        yield layer.text_enhancer_layer, "forward", "encoder: text"
        yield layer.deformable_layer, "forward", "encoder: feed-forward"  # which is no module of its own
        yield layer.deformable_layer.self_attn, "forward", "encoder: deformable"


def _fast_layer(layer: Any, ranges: Ranges) -> Any:
    names = {
        "fusion": "encoder: fusion",
        "text_attention": "encoder: text",
        "text_norm": "encoder: text",
        "text_feed": "encoder: text",
        "deformable": "encoder: deformable",
        "feed": "encoder: feed-forward",
    }
    return replace(layer, **{field: _Within(getattr(layer, field), name, ranges) for field, name in names.items()})


@contextmanager
def counted_operations() -> Iterator[Callable[[], float]]:
    """A meter of the floating-point operations of products, convolutions and attention meanwhile."""
    fused = getattr(torch.ops.aten, "_addmm_activation", None)  # which torch's own table leaves out
    mapping = {fused: _product_operations} if fused is not None else None
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        yield lambda: float(counter.get_total_flops())


def _product_operations(bias: Any, rows: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Of shapes (out,), (n, in), (in, out)."""
    return 2 * int(rows[0]) * int(rows[1]) * int(weight[1])


@contextmanager
def traced(file: str) -> Iterator[Callable[[str], AbstractContextManager[Any]]]:
    """Writes a Chrome trace of what runs meanwhile; gives what marks a range in it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        yield torch.profiler.record_function
    profiler.export_chrome_trace(file)


def time_text(detector: GroundingDino) -> float:
    """Seconds to encode all prompt chunks, which a worker does once."""
    clock = seconds_on(detector.device)
    with torch.inference_mode():
        start = clock()
        detector._passes.forward.encode_text([chunk.input_ids for chunk in detector.prompts.chunks])
        return clock() - start


def reached_rate(detector: GroundingDino) -> float:
    """`matmul_rate` on the detector's device, in the dtype of its products."""
    return matmul_rate(detector.device, detector._passes.forward.half)


def matmul_rate(device: torch.device, half: torch.dtype | None = None) -> float:
    """Floating-point operations a second that one large product reaches here: the roof.

    Args:
        half: dtype of the product, None for float32.
    """
    size = 8192 if device.type == "cuda" else 1536
    first, second = (torch.randn(size, size, device=device, dtype=half or torch.float32) for _ in range(2))
    clock, best = seconds_on(device), float("inf")
    for _ in range(5):
        start = clock()
        _ = first @ second
        best = min(best, clock() - start)
    return 2 * size**3 / best

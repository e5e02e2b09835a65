"""CUDA graphs: a forward pass's thousand kernels recorded once for each shape of images, then launched as one.

Where a forward pass is small (one or two chunks) launching takes longer than what is launched. A recording has inputs
and outputs of its own in the device's memory, and none of its kernels may change with the data; `Passes` is made so.

One is made for 1, 2, 4 and 8 images of a shape. Three images are filled up to four with copies of the last: the fusion
looks at the largest value of a whole batch, so that anything else could round, or overflow, what the images give.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Forward = Callable[[Tensor], Tensor | None]
Replay = Callable[[Tensor], Tensor]
SIZES = (1, 2, 4, 8)  # images in a recording; where more share a forward pass, launching takes the smaller part of it
_AFTER = 3  # forward passes of a shape before it is recorded: photographs come in many shapes, and most of them seldom
_MOST = 48  # recordings; each holds a few MB of launches, and all of them together the memory of a second forward
_MOST_BYTES = 1 << 30  # of their inputs: eight images at 800 x 1333 are 26 MB


def sizes_up_to(most: int) -> tuple[int, ...]:
    """Return the numbers of images to record where `most` share a forward pass: no recording has more than fit."""
    return (*(size for size in SIZES if size < most), *((most,) if most <= SIZES[-1] else ()))


def filled_up(pixels: Tensor, size: int) -> Tensor:
    """Return (size, ...) of at most as many images: the last one, repeated, stands where there are none."""
    missing = size - len(pixels)
    return torch.cat([pixels, pixels[-1:].expand(missing, *pixels.shape[1:])]) if missing else pixels


class Capture(Protocol):
    """The interface of recorders of what a function launches."""

    def __call__(self, run: Callable[[], Tensor | None]) -> tuple[Tensor | None, Callable[[], object]]:
        """Return what it returned, in memory of its own; and what launches all of it again, into the same memory."""


class CudaCapture:
    """A recorder on the current GPU: CUDA graphs that share the memory between their inputs and their outputs."""

    def __init__(self) -> None:
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        self._pool: Any = None
        # Of its own: a graph that goes frees what cuBLAS keeps for the stream it was recorded on.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], Tensor | None]) -> tuple[Tensor | None, Callable[[], object]]:
        if not self._alive:  # with its last graph a pool is gone, and its handle good for nothing
            self._pool = torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Only this thread's calls are watched: others continue to copy and to allocate.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                rows = run()
        finally:
            torch.cuda.set_stream(stream)  # which torch does not, where a recording fails
        self._alive.add(graph)
        return rows, graph.replay


class GraphRecorder:
    """Recordings of forward passes.

    A recording's output is only good until the next recording, or this one, is replayed; what reads it has to be asked
    for before that.
    """

    def __init__(self, kept: Callable[[], object], capture: Capture | None = None) -> None:
        """
        Args:
            kept: what the last forward pass read of what is kept between forward passes, and may be dropped: a
                recording knows where it lies, and nothing else, so it has to hold it.
            capture: None for CUDA's.
        """
        self._kept, self._capture = kept, capture or CudaCapture()

    def __call__(self, forward: Forward, pixels: Tensor) -> Replay:
        """Return a replay for pixels of this shape. `forward` has run with it before: what it keeps, it has by now.

        Raises:
            RuntimeError: something in it cannot be recorded, or the memory ran out.
        """
        inputs = pixels.clone()
        rows, launch = self._capture(lambda: forward(inputs))
        if rows is None:
            raise RuntimeError("there is nothing to record")
        return _Recording(inputs, launch, rows, self._kept())


@dataclass(frozen=True, eq=False)
class _Recording:
    inputs: Tensor
    launch: Callable[[], object]
    rows: Tensor
    kept: object

    def __call__(self, pixels: Tensor) -> Tensor:
        self.inputs.copy_(pixels, non_blocking=True)
        self.launch()
        return self.rows


class Recorded:
    """A forward pass that is replayed for the shapes that it is often asked for.

    The first that come often are recorded, and stay: to make room for others would be to record all the time where
    shapes are many, and recording is slower than what it saves.

    Attributes:
        problem: why nothing is recorded any more, "" as long as all is well.
        replayed: forward passes so far.
    """

    def __init__(
        self,
        forward: Forward,
        record: Callable[[Forward, Tensor], Replay],
        sizes: Mapping[int, int],
        *,
        after: int = _AFTER,
        most: int = _MOST,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """
        Args:
            sizes: number of images -> number that they are recorded as, no smaller; all others are launched.
            after: forward passes of a shape, the last of which is recorded.
            most, most_bytes: recordings, and bytes of their inputs.
        """
        self._forward, self._record, self._sizes = forward, record, dict(sizes)
        self._after, self._most, self._most_bytes = after, most, most_bytes
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._replays: dict[tuple[int, ...], Replay] = {}
        self._bytes = 0
        self.problem, self.replayed = "", 0

    def __call__(self, pixels: Tensor) -> Tensor | None:
        """As `forward`. The result may be overwritten by the next call."""
        images = len(pixels)
        size = self._sizes.get(images)
        if size is None:
            return self._forward(pixels)
        shape = (size, *pixels.shape[1:])
        replay = self._replays.get(shape)
        if replay is not None:
            self.replayed += 1
            return replay(filled_up(pixels, size))[:images]
        if not self._is_due(shape, pixels.element_size()):
            return self._forward(pixels)
        pixels = filled_up(pixels, size)
        rows = self._forward(pixels)  # of the shape that is recorded: what it needs is built and kept now
        if rows is None:
            return None
        self._keep(shape, pixels)
        return rows[:images]

    def _is_due(self, shape: tuple[int, ...], item_bytes: int) -> bool:
        """Count a forward pass of this shape. Whether it has come often enough, and may be recorded."""
        needed = math.prod(shape) * item_bytes
        if self.problem or len(self._replays) >= self._most or self._bytes + needed > self._most_bytes:
            return False
        self._seen[shape] += 1
        return self._seen[shape] >= self._after

    def _keep(self, shape: tuple[int, ...], pixels: Tensor) -> None:
        try:
            self._replays[shape] = self._record(self._forward, pixels)
            self._bytes += pixels.nbytes
            return
        except RuntimeError as error:  # torch.OutOfMemoryError, too: recordings need memory beside what runs unrecorded
            self.problem = in_a_line(error)
        self.forget()  # out here: in there the error still holds the memory of what failed
        log.warning("CUDA graphs are given up: %s", self.problem)

    def forget(self) -> bool:
        """Drop all recordings: what they do is no longer what is wanted, or their memory is. Whether there were any."""
        there = bool(self._replays)
        self._replays.clear()
        self._seen.clear()
        self._bytes = 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return there


def in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"

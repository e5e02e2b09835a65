"""CUDA graphs: a forward's thousand kernels recorded once for each shape of images, then launched as one.

Where a forward is small (one or two chunks) launching takes longer than what is launched. A recording has inputs and
outputs of its own in the device's memory, and none of its kernels may change with the data; `Passes` is made so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Forward = Callable[[Tensor], Tensor | None]
Replay = Callable[[Tensor], Tensor]
_AFTER = 3  # forwards of a shape before it is recorded: photographs come in many shapes, and most of them seldom
_MOST = 24  # shapes; each holds a few MB of launches, and all of them together the memory of a second forward
_ROUNDS = 5
_WORTH_IT = 1.03  # for the memory that recordings take
_EQUAL = 0.97  # of a picture's candidates; near-ties change places with the rounding
_SAME = 1e-3  # parts of the image, or of a score


class GraphRecorder:
    """Records a forward on the current GPU. All recordings share the memory between their inputs and their outputs.

    So a recording's output is only good until the next recording, or this one, is replayed; what reads it has to be
    asked for before that.
    """

    def __init__(self, kept: Callable[[], object]) -> None:
        """
        Args:
            kept: what the last forward read of what is kept between forwards, and may be dropped: a recording knows
                where it lies, and nothing else, so it has to hold it.
        """
        self._kept = kept
        self._alive: WeakSet[_Recording] = WeakSet()
        self._pool: Any = None
        # Of its own: a graph that goes frees what cuBLAS keeps for the stream it was recorded on.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, forward: Forward, pixels: Tensor) -> Replay:
        """A replay for pixels of this shape. `forward` has run with it before: what it keeps, it has by now.

        Raises:
            RuntimeError: something in it cannot be recorded, or the memory ran out.
        """
        if not self._alive:  # with its last recording a pool is gone, and its handle good for nothing
            self._pool = torch.cuda.graph_pool_handle()
        inputs, graph, stream = pixels.clone(), torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Only this thread's calls are watched: others go on to copy and to allocate.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                rows = forward(inputs)
        finally:
            torch.cuda.set_stream(stream)  # which torch does not, where a recording fails
        if rows is None:
            raise RuntimeError("there is nothing to record")
        recording = _Recording(inputs, graph, rows, self._kept())
        self._alive.add(recording)
        return recording


@dataclass(frozen=True, eq=False)
class _Recording:
    inputs: Tensor
    graph: torch.cuda.CUDAGraph
    rows: Tensor
    kept: object

    def __call__(self, pixels: Tensor) -> Tensor:
        self.inputs.copy_(pixels, non_blocking=True)
        self.graph.replay()
        return self.rows


class Recorded:
    """A forward that is replayed for the shapes that it is often asked for.

    The first that come often are recorded, and stay: to make room for others would be to record all the time where
    shapes are many, and recording is slower than what it saves.

    Attributes:
        problem: why nothing is recorded any more, "" as long as all is well.
        replayed: forwards so far.
    """

    def __init__(
        self,
        forward: Forward,
        record: Callable[[Forward, Tensor], Replay],
        *,
        after: int = _AFTER,
        most: int = _MOST,
    ) -> None:
        self._forward, self._record, self._after, self._most = forward, record, after, most
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._replays: dict[tuple[int, ...], Replay] = {}
        self.problem, self.replayed = "", 0

    def __call__(self, pixels: Tensor) -> Tensor | None:
        """As `forward`. The result may be overwritten by the next call."""
        shape = tuple(pixels.shape)
        replay = self._replays.get(shape)
        if replay is not None:
            self.replayed += 1
            return replay(pixels)
        rows = self._forward(pixels)
        if rows is None or self.problem or len(self._replays) >= self._most:
            return rows
        self._seen[shape] += 1
        if self._seen[shape] >= self._after:
            self._keep(shape, pixels)
        return rows

    def _keep(self, shape: tuple[int, ...], pixels: Tensor) -> None:
        try:
            self._replays[shape] = self._record(self._forward, pixels)
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
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return there


def in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"


@dataclass(frozen=True)
class Trial:
    """How replaying compares with launching, on one batch.

    Attributes:
        times: as fast.
        equal: part of the candidates that are the same.
    """

    times: float
    equal: float

    @property
    def passed(self) -> bool:
        return self.times >= _WORTH_IT and self.equal >= _EQUAL

    def __str__(self) -> str:
        return f"{self.times:.2f} times as fast on one picture, {self.equal:.1%} of its candidates equal"


def try_out(
    forward: Forward, record: Callable[[Forward, Tensor], Replay], pixels: Tensor, clock: Callable[[], float]
) -> Trial:
    """Run a batch both ways, in turns. What is compared is another one, mirrored: of a recording that does nothing, the
    first would come out right.

    Args:
        pixels: (images, h, w, 3).
        clock: seconds, when the device has done all that it was asked to.

    Raises:
        RuntimeError: as recording does.
    """
    mirrored = pixels.flip(2)
    forward(pixels)
    replay = record(forward, pixels)
    launched: list[float] = []
    replayed: list[float] = []
    ways: tuple[tuple[Forward, list[float]], ...] = ((forward, launched), (replay, replayed))
    for _ in range(_ROUNDS):
        for run, seconds in ways:
            start = clock()
            run(pixels)
            seconds.append(clock() - start)
    rows = forward(mirrored)
    expected = pixels.new_empty(0) if rows is None else rows.clone()
    found = replay(mirrored)
    same = ((found - expected).abs() <= _SAME) | (found.isnan() & expected.isnan())
    return Trial(min(launched) / max(min(replayed), 1e-9), float(same.all(-1).float().mean()))

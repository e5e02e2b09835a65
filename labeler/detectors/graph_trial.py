"""Whether replaying CUDA graphs is worth it here: both ways alternately, on the device that they will work on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from labeler.detectors.clock import Clock, medians_in_turns, timed
from labeler.detectors.graphs import Forward, Recorded, Replay, in_a_line, sizes_up_to

log = logging.getLogger(__name__)
Record = Callable[[Forward, Tensor], Replay]

WORTH_IT = 1.03  # times as fast, for the memory that recordings take
_EQUAL = 0.97  # of the images' candidates; near-ties change places with the rounding
_SAME = 1e-3  # parts of the image, or of a score


@dataclass(frozen=True)
class SizeTimes:
    """Median seconds of replaying a recording of some images, and of launching a forward pass.

    Attributes:
        size: images of the recording.
        fewest: that are filled up to it: one more than the next smaller recording has.
        replayed, launched: that many images either way.
        launched_fewest: the fewest, launched.
        rounds: how many of each were measured.
    """

    size: int
    fewest: int
    replayed: float
    launched: float
    launched_fewest: float
    rounds: int

    @property
    def images(self) -> range:
        """The numbers of images for which replaying is worth it; none, or all from one up to the size.

        What lies between the fewest and the size is launched no faster than the fewest.
        """
        needed = WORTH_IT * self.replayed
        if needed <= self.launched_fewest:
            return range(self.fewest, self.size + 1)
        return range(self.size, self.size + 1) if needed <= self.launched else range(0)

    def __str__(self) -> str:
        filled = "" if self.fewest == self.size else f" ({self.fewest}: {1000 * self.launched_fewest:.1f} ms)"
        return (
            f"{self.size} in {1000 * self.replayed:.1f} ms where launching takes {1000 * self.launched:.1f} ms{filled}"
        )


@dataclass(frozen=True)
class Trial:
    """Results for each size that was tried, from the smallest on.

    Attributes:
        equal: the least part of the candidates that were the same both ways.
    """

    times: tuple[SizeTimes, ...]
    equal: float

    @property
    def sizes(self) -> dict[int, int]:
        """Number of images -> size of the recording to replay for them."""
        return {images: each.size for each in self.times for images in each.images}

    def __str__(self) -> str:
        rounds = min((each.rounds for each in self.times), default=0)
        parts = "; ".join(map(str, self.times))
        return f"images of a shape: {parts}; medians of {rounds} alternately, {self.equal:.1%} of the candidates equal"


def choose_graphs(
    forward: Forward, record: Record, pixels: Tensor, *, most: int, always: bool, clock: Clock, until: float
) -> tuple[Recorded | None, str]:
    """Return what replays a forward pass, if that is worth it here; and in a few words why, or why not.

    Args:
        pixels: (1, h, w, 3), an image of the largest shape there is: of a smaller one launching is the larger part.
        most: images that share a forward pass.
        always: whether it is replayed however long it takes, as long as it is equal.
        clock: seconds, when the device has done all that it was asked to.
        until: wall-clock time; no further size is tried after it.
    """
    sizes = sizes_up_to(most)
    try:
        if always:
            equal = min(_try_equal(forward, record, pictures(pixels, size)) for size in sizes)
            chosen, words = every_size(sizes), f"asked for; {equal:.1%} of the candidates equal"
        else:
            trial = try_out(forward, record, pixels, sizes, clock, until)
            chosen, words, equal = trial.sizes, str(trial), trial.equal
    except RuntimeError as error:  # torch.OutOfMemoryError, too: recordings need memory beside what runs unrecorded
        chosen, words, equal = {}, in_a_line(error), 0.0
    torch.cuda.empty_cache()  # out here: in there the error still holds the memory of what failed
    used = bool(chosen) and equal >= _EQUAL
    words = f"{_used_for(chosen)}: {words}" if used else f"not used: {words}"
    log.log(logging.INFO if used or equal >= _EQUAL else logging.WARNING, "CUDA graphs are %s", words)
    return Recorded(forward, record, chosen) if used else None, words


def every_size(sizes: tuple[int, ...]) -> dict[int, int]:
    """Number of images -> the smallest of these sizes that has room for them."""
    return {images: min(size for size in sizes if size >= images) for images in range(1, max(sizes) + 1)}


def _used_for(sizes: dict[int, int]) -> str:
    counts = sorted(sizes)
    return f"used for {', '.join(map(str, counts))} image{'s' if counts[-1] > 1 else ''}"


def try_out(
    forward: Forward, record: Record, pixels: Tensor, sizes: tuple[int, ...], clock: Clock, until: float
) -> Trial:
    """Run images both ways, from the smallest size on, until one is worth nothing: the larger, the less there is to
    gain.

    Raises:
        RuntimeError: as recording the smallest does.
    """
    times: list[SizeTimes] = []
    equal = 1.0
    for before, size in zip((0, *sizes), sizes, strict=False):
        if times and clock() >= until:
            break
        batch = pictures(pixels, size)
        fewest = batch[: before + 1]
        forward(fewest)
        forward(batch)
        try:
            replay = record(forward, batch)
        except RuntimeError as error:
            if not times:
                raise
            log.log(logging.INFO, "CUDA graphs of %d images cannot be recorded: %s", size, in_a_line(error))
            break  # the smaller ones were measured, and stay
        equal = min(equal, _equal(forward, replay, batch))
        ways: list[tuple[Forward, Tensor]] = [(replay, batch), (forward, batch), (forward, fewest)]
        measures = [
            partial(timed, partial(run, given), clock) for run, given in ways[: 2 if len(fewest) == size else 3]
        ]
        medians, rounds = medians_in_turns(measures, clock, until)
        times.append(SizeTimes(size, len(fewest), medians[0], medians[1], medians[-1], rounds))
        if equal < _EQUAL or not times[-1].images:
            break
    return Trial(tuple(times), equal)


def pictures(pixels: Tensor, count: int) -> Tensor:
    """Return (count, h, w, 3) of one image, each shifted by another way: results in a wrong order
    would not be equal.
    """
    return torch.cat([pixels.roll(pixels.shape[2] * number // count, dims=2) for number in range(count)])


def _try_equal(forward: Forward, record: Record, batch: Tensor) -> float:
    forward(batch)
    return _equal(forward, record(forward, batch), batch)


def _equal(forward: Forward, replay: Replay, batch: Tensor) -> float:
    """Return the part of the candidates that are the same both ways, in the mirrored images: of a recording that does
    nothing, those that it was made of would come out right.
    """
    mirrored = batch.flip(2)
    rows = forward(mirrored)
    expected = batch.new_empty(0) if rows is None else rows.clone()
    found = replay(mirrored)
    same = ((found - expected).abs() <= _SAME) | (found.isnan() & expected.isnan())
    return float(same.all(-1).float().mean())

"""Which of two engines is faster, alternately on the device that they will work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from labeler.detectors.clock import Clock, medians_in_turns, seconds_on, timed
from labeler.detectors.grounding_dino.split_forward import SplitForward, TextFeatures
from labeler.prompts import ImageRule

AT_MOST_S = 10.0  # of the start of a worker; where a round takes long, fewer rounds tell enough
SLOWER = 1.2  # the fast engine is not given up for less: the trial is short, and neighbors make noise
_PAIRS = 4

Way = Callable[[], object]


@dataclass(frozen=True)
class EngineTimes:
    """Median seconds of one forward pass on the same images and chunks.

    Attributes:
        rounds: how many of each were measured.
    """

    fast: float
    reference: float
    rounds: int

    @property
    def fast_stays(self) -> bool:
        """Return whether the fast engine is not more than 20% slower."""
        return self.fast <= SLOWER * self.reference

    def __str__(self) -> str:
        return (
            f"{1000 * self.fast:.1f} ms where transformers' own forward pass takes {1000 * self.reference:.1f} ms "
            f"(medians of {self.rounds} alternately)"
        )


def time_in_turns(fast: Way, reference: Way, clock: Clock) -> EngineTimes:
    """Run each once to warm up, then five of each alternately, or as many as 10 s have room for,
    but one at least.
    """
    until = clock() + AT_MOST_S
    fast()
    reference()
    measures = [partial(timed, way, clock) for way in (fast, reference)]
    (of_fast, of_reference), rounds = medians_in_turns(measures, clock, until)
    return EngineTimes(of_fast, of_reference, rounds)


def time_engines(fast: SplitForward, reference: SplitForward, text: TextFeatures, rule: ImageRule) -> EngineTimes:
    """On an empty image of 4:3 at the detector's size, and on up to four chunks. Use it under `inference_mode`."""
    short, long = rule.size
    pixels = torch.zeros(1, 3, short, min(long, short * 4 // 3), device=fast.device)
    chunks = torch.arange(min(_PAIRS, len(text.token_mask)), device=fast.device)

    def way(engine: SplitForward) -> Way:
        image = engine.encode_image(pixels).take(torch.zeros_like(chunks))
        return lambda: engine.detect(image, text.take(chunks))

    return time_in_turns(way(fast), way(reference), seconds_on(fast.device))

"""What a job does before its first image, said as it begins, and how long each step took."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from labeler.terminal import tell

_WORTH_NAMING_S = 1.0  # shorter steps are not named in the sum


class Startup:
    """Steps, one after the other.

    Attributes:
        current: the step under way; empty once the first unit is labeled.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._steps: list[tuple[str, float]] = []
        self.current = ""

    def step(self, what: str) -> None:
        """End the step before, and say what begins, e.g. "listing the input"."""
        self._steps.append((what, self._clock()))
        self.current = what
        tell(self._console, f"{what} ...", step=what)

    def end(self) -> None:
        """The first unit is labeled: say how long that took, and which steps took it. Nothing the second time."""
        if not self._steps or not self.current:
            return
        self.current = ""
        ends = [start for _, start in self._steps[1:]] + [self._clock()]
        seconds = {what: end - start for (what, start), end in zip(self._steps, ends, strict=True)}
        total = self._clock() - self._steps[0][1]
        named = ", ".join(f"{what} {took:.0f} s" for what, took in seconds.items() if took >= _WORTH_NAMING_S)
        took = {what: round(each, 3) for what, each in seconds.items()}
        tell(self._console, f"first unit after {total:.0f} s" + (f" ({named})" if named else ""), startup_s=took)

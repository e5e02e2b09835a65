"""The steps of a job before its first image: printed while they take time, with the seconds that each took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console

from labeler.terminal import tell

_WORTH_NAMING_S = 1.0  # shorter steps are not named in the sum
SAY_AFTER_S = 0.5  # a longer step is printed; what is refused at once stays one line
SAY_AGAIN_S = 30.0  # and printed again, with its seconds so far

LOADING = "loading Python packages"  # the first step of a command


class Startup:
    """Steps, one after the other. Use with `with`: nothing is printed after it.

    Args:
        after_s: a step that takes longer is printed; None: SAY_AFTER_S.
        again_s: how often it is printed again.

    Attributes:
        current: the step under way; empty once the first unit is labeled.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        after_s: float | None = None,
        again_s: float = SAY_AGAIN_S,
    ) -> None:
        self._console, self._clock = console, clock
        self._after_s = SAY_AFTER_S if after_s is None else after_s
        self._again_s = again_s
        self._steps: list[tuple[str, float]] = []
        self._timer: threading.Timer | None = None  # of the step under way
        self.current = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hush()

    def step(self, what: str, *, now: bool = False) -> None:
        """End the step before, and start one, e.g. "listing the input".

        Args:
            now: print it at once, not only if it takes long.
        """
        self._hush()
        self._steps.append((what, self._clock()))
        self.current = what
        if now:
            self._say(f"{what} ...", what)
        timer = self._timer = threading.Timer(self._again_s if now else self._after_s, self._report)
        timer.args = (what, now, timer.interval, timer.finished)
        timer.daemon = True
        timer.start()

    def _report(self, what: str, said: bool, took_s: float, ended: threading.Event) -> None:
        """In the timer's thread: print a step, and then again and again how long it has taken, until it ends."""
        while not ended.is_set():
            self._say(f"{what}: {took_s:.0f} s so far" if said else f"{what} ...", what)
            said, took_s = True, took_s + self._again_s
            ended.wait(self._again_s)

    def _say(self, text: str, step: str) -> None:
        tell(self._console, text, step=step)

    def _hush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """The first unit is labeled: print how long that took, and which steps took it. Nothing the second time."""
        if not self._steps or not self.current:
            return
        self._hush()
        self.current = ""
        ends = [start for _, start in self._steps[1:]] + [self._clock()]
        seconds = {what: end - start for (what, start), end in zip(self._steps, ends, strict=True)}
        total = self._clock() - self._steps[0][1]
        named = ", ".join(f"{what} {took:.0f} s" for what, took in seconds.items() if took >= _WORTH_NAMING_S)
        took = {what: round(each, 3) for what, each in seconds.items()}
        tell(self._console, f"first unit after {total:.0f} s" + (f" ({named})" if named else ""), startup_s=took)

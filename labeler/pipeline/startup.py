"""What a job does before its first image: said while it takes time, and how long each step took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console

from labeler.terminal import tell

_WORTH_NAMING_S = 1.0  # shorter steps are not named in the sum
_AT_A_TERMINAL_S, _IN_A_LOG_S = 1.0, 10.0  # a step that takes so long is said: what is refused at once is one line


class Startup:
    """Steps, one after the other. Use with `with`: nothing is said after it.

    Args:
        after_s: a step that takes longer is said; None: by where the messages go.

    Attributes:
        current: the step under way; empty once the first unit is labeled.
    """

    def __init__(
        self, console: Console, *, clock: Callable[[], float] = time.monotonic, after_s: float | None = None
    ) -> None:
        self._console, self._clock = console, clock
        self._after_s = (_AT_A_TERMINAL_S if console.is_terminal else _IN_A_LOG_S) if after_s is None else after_s
        self._steps: list[tuple[str, float]] = []
        self._timer: threading.Timer | None = None
        self.current = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hush()

    def step(self, what: str, *, now: bool = False) -> None:
        """End the step before; what begins, e.g. "listing the input", is said `now` or if it takes long."""
        self._hush()
        self._steps.append((what, self._clock()))
        self.current = what
        if now:
            self._say(what)
            return
        self._timer = threading.Timer(self._after_s, self._say, [what])
        self._timer.daemon = True
        self._timer.start()

    def _say(self, what: str) -> None:
        tell(self._console, f"{what} ...", step=what)

    def _hush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """The first unit is labeled: say how long that took, and which steps took it. Nothing the second time."""
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

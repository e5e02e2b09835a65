"""Waiting for something to become true, on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.errors import Refused

PATIENCE_S = 300.0  # only something that never happens takes that long; pytest's own limit is twice that


def wait_until(true: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
    """Ask again and again until the answer is truthy; AssertionError if it never is.

    Asking takes at most a fifth of one core: what is waited for needs it more.
    """
    deadline = time.monotonic() + limit_s
    while True:
        asked = time.monotonic()
        if true():
            return
        assert time.monotonic() < deadline, f"not so after {limit_s:g} s"
        time.sleep(max(0.02, 4 * (time.monotonic() - asked)))


@dataclass(frozen=True)
class RefusesOnce:
    """A model that loads until this file is there, and is refused then. Picklable."""

    there: Path

    def __call__(self) -> Any:
        wait_until(self.there.exists)
        raise Refused("the model was loaded")

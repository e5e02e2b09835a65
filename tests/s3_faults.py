"""Faults between labeler and an S3 server, drawn at random for a share of all requests."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field

ANY = ("slow down", "reset", "timeout", "expired credentials")  # before the server has seen the request
OF_A_GET = (*ANY, "truncated body", "wrong ETag")
OF_A_WRITE = (*ANY, "lost answer")  # done, and the client does not hear of it


@dataclass
class Faults:
    """Decides for each request whether it fails, and how.

    Attributes:
        rate: the share of requests that fail, 0..1.
        requests, drawn: how many were seen, and the failures by kind.
    """

    rate: float
    seed: int = 5
    requests: int = 0
    drawn: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._dice, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self, method: str) -> str | None:
        """The fault of the next request, None for none."""
        kinds = OF_A_GET if method == "GET" else ANY if method == "HEAD" else OF_A_WRITE
        with self._lock:
            self.requests += 1
            if self._dice.random() >= self.rate:
                return None
            kind = self._dice.choice(kinds)
            self.drawn[kind] += 1
            return kind

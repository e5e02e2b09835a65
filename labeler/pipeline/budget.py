"""What a job may take: an end after some hours, or before its workers have cost too much. It stops cleanly there."""

from __future__ import annotations

import math
import threading
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console

from labeler.errors import Refused
from labeler.pipeline.beside import beside
from labeler.pipeline.cluster import Workers, workers_on
from labeler.pipeline.nodes import alive_nodes
from labeler.pipeline.stopping import Stopping

_LOOK_S = 1.0
_LAST_UNITS_S = 60.0  # what is started is finished first, if that does not take longer


@dataclass(frozen=True)
class Budget:
    """Limits of one job, not of the run.

    Attributes:
        seconds: from the moment that the cluster is joined.
        cost: of the places that nodes have for workers, while they are there, whether or not a worker is at work.
        price_per_hour: of one such place.
    """

    seconds: float = math.inf
    cost: float = math.inf
    price_per_hour: float = 0.0

    @staticmethod
    def of(hours: float | None, cost: float | None, price_per_hour: float | None) -> Budget:
        """Limits as a user gives them; None is none.

        Raises:
            Refused: one is not a positive number, or a cost has no price.
        """
        given = {"--stop-after-hours": hours, "--max-cost": cost, "--price-per-hour": price_per_hour}
        for name, value in given.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise Refused(f"{name} {value:g}: a number above 0")
        if cost is not None and price_per_hour is None:
            raise Refused("--max-cost needs --price-per-hour, the price of one worker's hour")
        return Budget(
            math.inf if hours is None else hours * 3600, math.inf if cost is None else cost, price_per_hour or 0.0
        )

    @property
    def limited(self) -> bool:
        return math.isfinite(self.seconds) or math.isfinite(self.cost)

    def require_room(self, unit_s: float) -> None:
        """Refused where not even one unit is done in the time, or for the money.

        Args:
            unit_s: that one unit takes, about.
        """
        if unit_s > self.seconds:
            raise Refused(
                f"--stop-after-hours {self.seconds / 3600:g} ends before one unit is done, in about {unit_s:.0f} s"
            )
        if (price := unit_s * self.price_per_hour / 3600) > self.cost:
            raise Refused(f"--max-cost {self.cost:g} is less than one unit costs, about {price:.2g}")

    def passed(self, seconds: float, cost: float) -> str:
        """Return which limit is reached after that much; empty for none."""
        if seconds >= self.seconds:
            return f"--stop-after-hours {self.seconds / 3600:g}"
        return f"--max-cost {self.cost:g}" if cost >= self.cost else ""


UNLIMITED = Budget()


class Spending:
    """The time and money that a job has taken. At a limit nothing is started any more, and the job ends."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._started = self._looked = time.monotonic()
        self.cost = 0.0
        self._ledger: Any = None

    def follow(self, ledger: Any) -> None:
        """Take the ledger that says what may be started."""
        self._ledger = ledger

    def watched(self, workers: Workers, signals: Stopping, console: Console) -> AbstractContextManager[None]:
        """While inside, stop the job by `signals` once a limit is reached."""
        return beside(self._watch, workers, signals, console)

    def _watch(self, workers: Workers, signals: Stopping, console: Console, stopped: threading.Event) -> None:
        while self._budget.limited and not stopped.wait(_LOOK_S):
            with suppress(Exception):  # Ray is shut down, or lost itself: see `ray_watch`
                self.look(_places(workers))
            if reached := self._budget.passed(time.monotonic() - self._started, self.cost):
                console.print(f"{reached} is reached: what is started is finished, then the job ends", markup=False)
                self._finish(stopped)
                if not stopped.is_set():
                    signals.stop(reached)
                return

    def look(self, places: int) -> None:
        """Add what the workers' places have cost since the last look."""
        now = time.monotonic()
        self.cost += places * (now - self._looked) / 3600 * self._budget.price_per_hour
        self._looked = now

    def _finish(self, stopped: threading.Event) -> None:
        until = time.monotonic() + _LAST_UNITS_S
        with suppress(Exception):
            while self._ledger is not None and time.monotonic() < until and not stopped.is_set():
                if not ray.get(self._ledger.begin_no_more.remote()):
                    return
                stopped.wait(_LOOK_S)


def _places(workers: Workers) -> int:
    """Return how many workers the nodes that are there hold."""
    places = sum(workers_on(node, workers.gpus, workers.cpus) for node in alive_nodes(workers.place))
    return places if workers.most is None else min(places, workers.most)

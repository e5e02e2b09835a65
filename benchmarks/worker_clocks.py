"""Time of each worker of a run, excluding its late start: from the run's unit files, without Ray.

Workers start one after the other, above all if many simulated nodes share few cores. That is not a cost of the
pipeline: it does not grow with the work. So each worker has its own clock, and what all of them do together counts
only while all of them are there.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

WORKER, BEGUN = "benchmark_worker", "benchmark_begun"  # what the detector puts into each unit file's metadata


@dataclass(frozen=True)
class Commit:
    """One committed unit.

    Attributes:
        worker: which one labeled it.
        started: when that worker started its first unit, seconds since the epoch.
        at: when this unit was committed.
    """

    worker: str
    started: float
    at: float


@dataclass(frozen=True)
class Clocks:
    """A run by its workers' own clocks.

    Attributes:
        of_ideal: all units' seconds by all workers' seconds, each from its first unit's start to its last commit.
        least, most: the same of the slowest and of the fastest worker.
        stagger_s: from the first worker's start to the last one's.
        tail_s: from the first worker's last commit to the last worker's: some are idle meanwhile.
        steady_s: from the last worker's first commit until the first worker has nothing left to do.
        steady_of_ideal: units committed in that time, by what as many workers would ideally commit; None if it is not
            long enough to tell, less than five units a worker.
    """

    workers: int
    units: int
    of_ideal: float
    least: float
    most: float
    stagger_s: float
    tail_s: float
    steady_s: float
    steady_of_ideal: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_commits(run: Path) -> list[Commit]:
    """All unit files of a run whose detector wrote `WORKER` and `BEGUN`; a file's time is its commit's."""
    commits = []
    for file in (run / "labels").glob("*/*.parquet"):
        metadata = parquet.read_schema(file).metadata
        worker, started = metadata[WORKER.encode()].decode(), float(metadata[BEGUN.encode()])
        commits.append(Commit(worker, started, file.stat().st_mtime))
    return commits


def clocks(commits: Iterable[Commit], *, unit_s: float) -> Clocks:
    """The workers' clocks.

    Args:
        commits: of one run, at least one.
        unit_s: seconds that a unit ideally takes its worker.
    """
    by_worker: dict[str, list[Commit]] = defaultdict(list)
    for commit in sorted(commits, key=lambda commit: commit.at):
        by_worker[commit.worker].append(commit)
    started = [mine[0].started for mine in by_worker.values()]
    last = [mine[-1].at for mine in by_worker.values()]
    taken = [end - start for start, end in zip(started, last, strict=True)]
    ideal = [len(mine) * unit_s for mine in by_worker.values()]
    shares = [best / real for best, real in zip(ideal, taken, strict=True)]
    units = sum(map(len, by_worker.values()))
    steady_s, steady = _steady(list(by_worker.values()), unit_s)
    return Clocks(
        *(len(by_worker), units, sum(ideal) / sum(taken), min(shares), max(shares)),
        *(max(started) - min(started), max(last) - min(last), steady_s, steady),
    )


def _steady(by_worker: Sequence[Sequence[Commit]], unit_s: float) -> tuple[float, float | None]:
    """(seconds in which all workers were at work, what part of the ideal they committed in it)."""
    start, end = max(mine[0].at for mine in by_worker), min(mine[-1].at for mine in by_worker)
    seconds = max(0.0, end - start)
    # From commit to commit, each worker by itself: cut at the edges a worker would lose up to a unit at either end.
    rates = []
    for mine in by_worker:
        inside = [commit.at for commit in mine if start <= commit.at <= end]
        if len(inside) < 6:
            return seconds, None
        rates.append((len(inside) - 1) * unit_s / (inside[-1] - inside[0]))
    return seconds, statistics.mean(rates)

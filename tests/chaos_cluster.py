"""A Ray cluster of several nodes with fake GPUs on this machine, a job on it, and ways to hurt both."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from labeler.runs import open_run, read_snapshot
from labeler.runs.report import Report, build_report
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes

ROOT = Path(__file__).parent.parent
POISON_WIDTH = 77


class ChaosCluster:
    """A head node that runs no detector, and worker nodes with one fake GPU each."""

    def __init__(self, workers: int) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 150 * 2**20, "include_dashboard": False},
        )
        self.nodes = [self.add_node() for _ in range(workers)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_node(self) -> Any:
        return self._cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=150 * 2**20)

    def kill_node(self) -> None:
        """As when a spot machine is taken away: no goodbye."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def restore(self, workers: int) -> None:
        while len(self.nodes) < workers:
            self.nodes.append(self.add_node())

    def close(self) -> None:
        self._cluster.shutdown()


@dataclass
class Job:
    """A labeling job with a stub detector, as processes that can be killed."""

    folder: Path
    checkpoint: Path
    address: str
    stub: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, name: str = "job") -> subprocess.Popen[str]:
        config = {
            "input": str(self.folder / "in"),
            "output": str(self.output),
            "vocabulary": NAMES,
            "model": {"name": str(self.checkpoint)},
            "unit": {"max_images": 32},
            "ray": {"address": self.address, "cpus_per_worker": 1, "start_timeout_s": 120},
            **self.overrides,
        }
        spec = self.folder / f"{name}.json"
        spec.write_text(json.dumps({"config": config, "stub": {"log": str(self.log), **self.stub}}))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos_driver", str(spec)],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=(self.folder / f"{name}.err").open("a"),
        )  # fmt: skip

    def finish(self) -> None:
        """Run it to its end, as a user who starts the same command again."""
        process = self.start()
        assert process.wait(timeout=500) == 0, (self.folder / "job.err").read_text()[-2000:]

    def report(self) -> Report:
        run = open_run(str(self.output))
        assert run is not None
        return build_report(read_snapshot(run))

    def rows(self) -> list[dict[str, Any]]:
        run = open_run(str(self.output))
        assert run is not None
        columns = ("shard_id", "index", "image_key", "status", "error", "digest")
        return [row for t in read_snapshot(run).tables(columns) for row in t.to_pylist()]

    def detected(self) -> int:
        """Images the detector was ever given, repeated ones each time."""
        return self.log.stat().st_size // 2 if self.log.exists() else 0

    def units_committed(self) -> int:
        return len(list(self.output.glob("labels/*/*.parquet")))


def write_images(folder: Path, *, shards: int, images: int, poison: frozenset[int] = frozenset()) -> int:
    """Tars of small PNGs; `poison` numbers images over all shards. Returns how many images there are."""
    (folder / "in").mkdir(parents=True)
    for shard in range(shards):
        numbers = range(shard * images, (shard + 1) * images)
        members = {f"{n:05d}.png": image_bytes(n, width=POISON_WIDTH if n in poison else 40) for n in numbers}
        (folder / "in" / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    return shards * images


def require_exact(job: Job, images: int, statuses: Mapping[str, int]) -> None:
    """Every image has exactly one row, with the right status."""
    report, rows = job.report(), job.rows()
    assert report.complete
    assert report.problems == ()
    assert len(rows) == images
    assert len({(row["shard_id"], row["index"]) for row in rows}) == images
    assert sorted(row["image_key"] for row in rows) == [f"{n:05d}.png" for n in range(images)]
    assert Counter(row["status"] for row in rows) == Counter(statuses)


@contextmanager
def killing(every_s: float, victims: Callable[[], list[int]], seed: int, at_most: int = 1000) -> Iterator[list[int]]:
    """SIGKILLs one of `victims` now and then while the block runs; yields the list of those killed."""
    stop, killed, rng = threading.Event(), [], random.Random(seed)

    def kill() -> None:
        while len(killed) < at_most and not stop.wait(every_s * rng.uniform(0.5, 1.5)):
            if candidates := victims():
                victim = rng.choice(candidates)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 200) -> None:
    """Until the condition holds or the job has ended."""
    deadline = time.monotonic() + timeout_s
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing moved for too long"
        time.sleep(0.1)

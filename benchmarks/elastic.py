"""Nodes that come and go during a run: a detector that sleeps, on simulated nodes with fake GPUs of this machine.

    python -m benchmarks.elastic grow shrink late mixed kinds spot

grow    1 node, then 3          shrink  3 nodes, then 1           late  no GPU at first, then 2 nodes
mixed   one node of 2 CPUs beside two of 6
kinds   a node of GPU kind A and one of kind B; only A may be used
spot    2 nodes, and every minute one of them is replaced with 5 s notice

Each says how many images each node detected, how many were detected again, and how soon what joined was at work. Every
run is checked to have exactly one row for each image. All nodes share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before ray is imported

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from rich.console import Console

from benchmarks.machine import machine
from labeler.config import make_config
from labeler.labeling.detector import UnitDetector
from labeler.labels.detections import Detections
from labeler.pipeline.label import label
from labeler.runs import open_run, read_snapshot
from labeler.runs.report import build_report
from labeler.training.shapes import write_data_set

CHECKPOINT = "models/shapes"
IMAGES_PER_UNIT = 8
NOTICE_S = 5.0
_PATIENCE_S = 900.0


@dataclass(frozen=True)
class Paced(UnitDetector):
    """Takes its time for each image, finds nothing, and notes when and on which node each was detected."""

    seconds: float
    log: str

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "sleep", "device": "a fake GPU"}

    def prepare(self, image_rgb: Any, full_size: tuple[int, int] | None = None) -> Any:
        return image_rgb

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections | str]:
        node = ray.get_runtime_context().get_node_id()
        for _ in batch:
            time.sleep(self.seconds)
            threads = sum(thread.name.startswith("decode") for thread in threading.enumerate())
            with open(self.log, "a", buffering=1) as log:
                log.write(f"{time.time():.2f} {node} {threads}\n")
        return [Detections.empty() for _ in batch]


class Site:
    """A cluster whose head has no GPU, and a job on it."""

    def __init__(self, folder: Path, images: int, seconds: float, ray_options: dict[str, Any]) -> None:
        self.folder, self.log, self.images = folder, folder / "log", images
        self.log.touch()
        self.cluster = Cluster(initialize_head=True, head_node_args={**_node(2, 0), "include_dashboard": False})
        self.address = str(self.cluster.address)
        write_data_set(
            str(folder / "in"), images=images, images_per_shard=4 * IMAGES_PER_UNIT, sizes=[(96, 64)], captions=False
        )
        spec = {"folder": str(folder), "seconds": seconds, "ray": {"address": self.address, **ray_options}}
        (folder / "spec.json").write_text(json.dumps(spec))
        self.joined: dict[str, float] = {}
        self.nodes: list[Any] = []
        self.job: subprocess.Popen[bytes] | None = None

    def add(self, count: int = 1, *, cpus: int = 2, kind: str = "") -> None:
        for _ in range(count):
            more = {"resources": {f"accelerator_type:{kind}": 1}} if kind else {}
            self.nodes.append(self.cluster.add_node(**_node(cpus, 1), **more))
            self.joined[self.nodes[-1].node_id] = time.time()

    def start(self) -> None:
        with (self.folder / "err").open("wb") as errors:
            command = [sys.executable, "-m", "benchmarks.elastic", "--drive", str(self.folder / "spec.json")]
            self.job = subprocess.Popen(command, stderr=errors, stdout=subprocess.DEVNULL)

    def detected(self) -> list[tuple[float, str, int]]:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [(float(at), node, int(threads)) for at, node, threads in lines]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while self.running and not condition():
            if time.monotonic() > deadline:
                raise TimeoutError((self.folder / "err").read_text()[-2000:])
            time.sleep(0.5)

    @property
    def running(self) -> bool:
        assert self.job is not None
        return self.job.poll() is None

    def drain(self, node: Any) -> None:
        """What a spot machine's notice is to Ray."""
        deadline_ms = int((time.time() + NOTICE_S) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = GcsClient(address=self.address).drain_node(node.node_id, reason, "spot", deadline_ms)
        assert accepted, why

    def remove(self, node: Any) -> None:
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def result(self) -> dict[str, Any]:
        """What came out, once the job has ended; every image has exactly one row, or this raises."""
        self.wait_until(lambda: False)
        assert self.job is not None
        if self.job.returncode:
            raise RuntimeError((self.folder / "err").read_text()[-2000:])
        run = open_run(str(self.folder / "out"))
        assert run is not None
        report = build_report(read_snapshot(run))
        assert report.complete, report.problems
        assert report.images == self.images, report
        seen = self.detected()
        first = {node: min(at for at, where, _ in seen if where == node) for node in {where for _, where, _ in seen}}
        return {
            "images": self.images,
            "detected_again_percent": round(100 * (len(seen) / self.images - 1), 2),
            "images_by_node": sorted(Counter(where for _, where, _ in seen).values(), reverse=True),
            "decode_threads_by_node": [max(t for _, where, t in seen if where == node) for node in sorted(first)],
            "seconds_from_node_ready_to_its_first_image": sorted(
                round(first[node] - ready, 1) for node, ready in self.joined.items() if node in first
            ),
            "images_a_second_by_10_s": _rates([at for at, _, _ in seen]),
        }

    def close(self) -> None:
        if self.job is not None and self.running:
            self.job.kill()
        self.cluster.shutdown()


def _node(cpus: int, gpus: int) -> dict[str, Any]:
    return {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": 100 * 2**20}


def _rates(times: list[float]) -> list[float]:
    begin = min(times)
    counts = Counter(int((at - begin) // 10) for at in times)
    return [counts[window] / 10 for window in range(max(counts) + 1)]


def grow(site: Site) -> None:
    site.add(1)
    site.start()
    site.wait_until(lambda: len(site.detected()) > 2 * IMAGES_PER_UNIT)
    site.add(2)


def shrink(site: Site) -> None:
    site.add(3)
    site.start()
    site.wait_until(lambda: len({node for _, node, _ in site.detected()}) == 3)
    for node in site.nodes[1:]:
        site.remove(node)


def late(site: Site) -> None:
    site.start()
    site.wait_until(lambda: b"waiting until" in (site.folder / "err").read_bytes())
    site.add(2)


def mixed(site: Site) -> None:
    site.add(2, cpus=6)
    site.add(1, cpus=2)
    site.start()


def kinds(site: Site) -> None:
    site.add(1, kind="A")
    site.add(1, kind="B")
    site.start()


def spot(site: Site) -> None:
    site.add(2)
    site.start()
    site.wait_until(lambda: bool(site.detected()))
    while site.running:
        site.wait_until(_after(60))
        if not site.running:
            return
        leaving = site.nodes[0]
        site.add(1)  # as an autoscaler does on a notice
        site.drain(leaving)
        time.sleep(NOTICE_S)
        site.remove(leaving)


def _after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


SCENARIOS: dict[str, tuple[Callable[[Site], None], int, float, dict[str, Any]]] = {  # images, seconds each, of ray
    "grow": (grow, 400, 0.2, {}),
    "shrink": (shrink, 400, 0.2, {}),
    "late": (late, 120, 0.2, {}),
    "mixed": (mixed, 200, 0.2, {}),
    "kinds": (kinds, 80, 0.2, {"accelerator_type": "A"}),
    "spot": (spot, 800, 0.4, {}),
}


def run(name: str, images: int | None = None) -> dict[str, Any]:
    """Carry one scenario out; raises unless every image has exactly one row."""
    play, default, seconds, ray_options = SCENARIOS[name]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), images or default, seconds, ray_options)
        try:
            play(site)
            found = {"seconds_per_image": seconds, "nodes": len(site.joined), **site.result()}
        finally:
            site.close()
    if name == "kinds":
        assert len(found["images_by_node"]) == 1, found
    return found


def _drive(path: str) -> None:
    spec = json.loads(Path(path).read_text())
    folder = Path(spec["folder"])
    config = {
        **{"input": str(folder / "in" / "shards"), "output": str(folder / "out")},
        "vocabulary": str(folder / "in" / "vocabulary.txt"),
        **{"model": {"name": CHECKPOINT}, "unit": {"max_images": IMAGES_PER_UNIT}, "detect": {"images_per_batch": 1}},
        "ray": {**spec["ray"], "gpus_per_worker": 1, "start_timeout_s": _PATIENCE_S},
    }
    detector = Paced(spec["seconds"], str(folder / "log"))
    label(make_config(config), make_detector=lambda: detector, console=Console(stderr=True, width=200))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; none: all")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    arguments = parser.parse_args(argv)
    if arguments.drive:
        _drive(arguments.drive)
        return
    for name in arguments.scenarios or SCENARIOS:
        found = run(name)
        print(name, json.dumps(found), flush=True)
        if arguments.json:
            before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
            arguments.json.write_text(json.dumps({"machine": machine(), **before, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

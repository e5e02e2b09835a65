"""What Ray, decoding and commits cost: a detector that sleeps one second per unit, on simulated nodes of one fake GPU.

    python -m benchmarks.ray_overhead --nodes 1 2 4

Workers start one after the other, and all nodes share this machine, so that its few cores do the work of many. That is
separated from the cost of the pipeline (see `worker_clocks`):

by worker   units x 1 s, by the time from a worker's first unit to its last commit
steady      commits a second while all workers are at work, by one a second and worker
whole       units / workers seconds, by the time from the first commit of all to the last: with stagger and tail
stagger     from the first worker's start to the last one's; tail: from the first worker that is done to the last
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before ray is imported

import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.worker_clocks import BEGUN, WORKER, clocks, read_commits
from labeler.config import make_config
from labeler.labeling.detector import UnitDetector
from labeler.labels.detections import Detections
from labeler.pipeline.label import label
from labeler.training.shapes import write_data_set

IMAGES_PER_UNIT = 8
UNIT_S = 1.0
COLUMNS = {
    **{"nodes": 6, "units": 7, "by worker": 11, "steady": 9, "whole": 8},
    **{"stagger s": 11, "tail s": 8, "with start s": 14},
}
CHECKPOINT = "models/shapes"


class Sleeper(UnitDetector):
    """Finds nothing, and takes its time; says which worker it is, and when it began."""

    def __init__(self, seconds_per_image: float) -> None:
        self._seconds_per_image = seconds_per_image
        self._worker, self._begun = uuid.uuid4().hex, 0.0

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "sleep", "device": "a fake GPU", WORKER: self._worker, BEGUN: repr(self._begun)}

    def prepare(self, image_rgb: Any) -> Any:
        self._begun = self._begun or time.time()  # several threads at once differ by less than a decode
        return image_rgb

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
        time.sleep(self._seconds_per_image * len(batch))
        return [Detections.empty() for _ in batch]


def run(folder: Path, nodes: int, units_per_node: int) -> dict[str, Any]:
    """Measure one run on that many nodes."""
    units = nodes * units_per_node
    data = write_data_set(str(folder / "data"), images=units * IMAGES_PER_UNIT, images_per_shard=5 * IMAGES_PER_UNIT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=4, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        config = make_config(
            {
                "input": str(folder / "data" / "shards"),
                "output": str(folder / "run"),
                "vocabulary": data.vocabulary,
                "model": {"name": CHECKPOINT},
                "unit": {"max_images": IMAGES_PER_UNIT},
                "ray": {"workers": nodes, "gpus_per_worker": 1, "cpus_per_worker": 1},
            }
        )
        start = time.time()
        make_detector = partial(Sleeper, UNIT_S / IMAGES_PER_UNIT)
        label(config, make_detector=make_detector, console=Console(quiet=True))
        whole = time.time() - start
    finally:
        ray.shutdown()
        cluster.shutdown()
    commits = read_commits(folder / "run")
    assert len(commits) == units, (len(commits), units)
    ideal = (units - nodes) / nodes * UNIT_S  # the first commit of each worker starts its clock
    times = [commit.at for commit in commits]
    taken = max(times) - min(times)
    return {
        "nodes": nodes,
        "units": units,
        "ideal_s": ideal,
        "taken_s": taken,
        "of_ideal": ideal / taken,
        "whole_s": whole,
        "by_worker": clocks(commits, unit_s=UNIT_S).to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--units-per-node", type=int, default=60)
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    print("".join(f"{title:>{width}}" for title, width in COLUMNS.items()))
    for nodes in arguments.nodes:
        with tempfile.TemporaryDirectory() as folder:
            row = run(Path(folder), nodes, arguments.units_per_node)
        result["rows"].append(row)
        _print(row)
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def _print(row: dict[str, Any]) -> None:
    own = row["by_worker"]
    steady = "" if own["steady_of_ideal"] is None else f"{own['steady_of_ideal']:.1%}"
    print(
        f"{row['nodes']:6}{row['units']:7}{own['of_ideal']:11.1%}{steady:>9}{row['of_ideal']:8.1%}"
        f"{own['stagger_s']:11.1f}{own['tail_s']:8.1f}{row['whole_s']:14.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""What Ray, decoding and commits cost: a detector that sleeps one second per unit, on simulated nodes of one fake GPU.

    python -m benchmarks.ray_overhead --nodes 1 2 4

Ideal is units / workers seconds. What is counted runs from the first commit to the last, so starting the workers is not
in it; that is printed beside it. All nodes share this machine, so its few cores do the work of many.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before ray is imported

import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from benchmarks.machine import machine
from labeler.config import make_config
from labeler.detections import Detections
from labeler.pipeline.label import label
from labeler.shapes import write_data_set

IMAGES_PER_UNIT = 8
CHECKPOINT = "models/shapes"


@dataclass(frozen=True)
class Sleeper:
    """Finds nothing, and takes its time."""

    seconds_per_image: float

    def __call__(self) -> Sleeper:
        return self

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "sleep", "device": "a fake GPU"}

    def prepare(self, image_rgb: Any) -> Any:
        return image_rgb

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
        time.sleep(self.seconds_per_image * len(batch))
        return [Detections.empty() for _ in batch]


def run(folder: Path, nodes: int, units_per_node: int) -> dict[str, Any]:
    """One run on so many nodes."""
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
        label(config, make_detector=Sleeper(1.0 / IMAGES_PER_UNIT), console=Console(quiet=True))
        whole = time.time() - start
    finally:
        ray.shutdown()
        cluster.shutdown()
    commits = sorted(file.stat().st_mtime for file in (folder / "run" / "labels").glob("*/*.parquet"))
    assert len(commits) == units, (len(commits), units)
    ideal = (units - nodes) / nodes  # the first commit of each worker starts its clock
    taken = commits[-1] - commits[0]
    return {
        "nodes": nodes,
        "units": units,
        "ideal_s": ideal,
        "taken_s": taken,
        "of_ideal": ideal / taken,
        "whole_s": whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--units-per-node", type=int, default=40)
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    print(f"{'nodes':>6}{'units':>7}{'ideal s':>9}{'taken s':>9}{'of ideal':>10}{'with start-up s':>17}")
    for nodes in arguments.nodes:
        with tempfile.TemporaryDirectory() as folder:
            row = run(Path(folder), nodes, arguments.units_per_node)
        result["rows"].append(row)
        print(
            f"{row['nodes']:6}{row['units']:7}{row['ideal_s']:9.1f}{row['taken_s']:9.1f}{row['of_ideal']:10.1%}"
            f"{row['whole_s']:17.1f}",
            flush=True,
        )
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

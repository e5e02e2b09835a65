"""Memory and time to plan an input of millions of image files, from an inventory or from a listing.

    python -m benchmarks.plan_images --images 1000000 4000000 --output plan-images.json

The inventory is Parquet files of a million rows on the disk; the listing comes from the stand-in of
`benchmarks.slow_s3`. The run is written to the disk. Each figure is of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROWS = 1_000_000  # of one file of an inventory
KEY = "photos/{0:03d}/image-{1:09d}-of-a-store.jpg"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan_images", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000], help="sizes, one after the other")
    parser.add_argument("--ways", nargs="+", choices=["inventory", "listing"], default=["inventory", "listing"])
    parser.add_argument("--output", type=Path, help="JSON to write")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(*arguments.step)
        return 0
    rows = [measure(images, way) for way in arguments.ways for images in arguments.images]
    if arguments.output:
        from benchmarks.machine import machine

        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


def measure(images: int, way: str) -> dict[str, Any]:
    from benchmarks.slow_s3 import Stand

    with tempfile.TemporaryDirectory() as folder, Stand(list_s=0.05) as stand:
        if way == "inventory":
            write_inventory(Path(folder) / "inventory", images)
        else:
            stand.objects.fill((f"b/{KEY.format(i // 100_000, i)}" for i in range(images)), b"")
        threading.Thread(target=stand.serve_forever, args=(0.05,), daemon=True).start()
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.plan_images", "--step", way, folder],
            env={**os.environ, "AWS_ENDPOINT_URL": stand.endpoint, **keys},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        stand.shutdown()
    row = {"way": way, "images": images, **json.loads(done.stdout)}
    print(json.dumps(row), flush=True)
    return row


def write_inventory(folder: Path, images: int) -> None:
    """As S3 writes one: bucket, key, size and ETag of every object."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for start in range(0, images, ROWS):
        numbers = range(start, min(images, start + ROWS))
        table = pa.table(
            {
                "bucket": ["b"] * len(numbers),
                "key": [KEY.format(i // 100_000, i) for i in numbers],
                "size": [30_000 + i % 1000 for i in numbers],
                "e_tag": [f"{i * 2654435761 % 2**128:032x}" for i in numbers],
            }
        )
        pq.write_table(table, folder / f"{start:012d}.parquet")


def step(way: str, folder: str) -> None:
    """Plan the input into a run; print what it took."""
    from labeler.labels.detections import Detections  # noqa: F401  # what every process has, before the clock starts
    from labeler.prompts.grounding_dino import Prompts
    from labeler.runs.create import NewRun, create_run
    from labeler.runs.plan import PlannedShard
    from labeler.shards import count_images, find_shards
    from labeler.vocabulary import Vocabulary

    before = peak_mb()
    start, counts = time.perf_counter(), Counter[str]()
    inventory = [f"{folder}/inventory"] if way == "inventory" else []
    plan = [PlannedShard(s, count_images(s)) for s in find_shards("s3://b/photos", counts=counts, inventory=inventory)]
    planned_s = time.perf_counter() - start
    words = Vocabulary.load([{"id": 1, "name": "cat"}])
    config = {"model": {"name": "x"}, "input": {"keep": []}, "detect": {"max_detections": 300}}
    create_run(f"{folder}/run", NewRun({"model": "x"}, config, {}, words, Prompts((), frozenset(), 256), plan, counts))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "groups": len(plan),
                "planned": sum(each.images or 0 for each in plan),
                "seconds": round(time.perf_counter() - start, 1),
                "of_these_until_planned": round(planned_s, 1),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                "peak_mb": peak_mb(),
                "peak_mb_before": before,
                "lists_on_disk_mb": round(sum(f.stat().st_size for f in Path(folder, "run/groups").iterdir()) / 1e6),
            }
        )
    )


def peak_mb() -> int:
    """Of this process alone: what getrusage says includes its parent, at the moment of the fork."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


if __name__ == "__main__":
    sys.exit(main())

"""Memory and time to plan an input of hundreds of thousands of tars, and to read that plan again.

    python -m benchmarks.plan_scale --tars 400000 --output benchmarks/results/plan-scale.json

The tars are listed from the stand-in of `benchmarks.slow_s3`; each figure is of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan_scale", description=__doc__)
    parser.add_argument("--tars", type=int, nargs="+", default=[40_000], help="sizes of the input, one after the other")
    parser.add_argument("--code", type=Path, default=ROOT, help="a checkout to measure (default: this one)")
    parser.add_argument("--output", type=Path, help="JSON to write")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(arguments.step)
        return 0
    rows = [row for tars in arguments.tars for row in measure(tars, arguments.code)]
    if arguments.output:
        from benchmarks.machine import machine

        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


def measure(tars: int, code: Path) -> list[dict[str, Any]]:
    from benchmarks.slow_s3 import Stand  # not above: the other processes have the benchmarks of another checkout

    rows = []
    with Stand(list_s=0.05) as stand:
        stand.objects.fill((f"b/in/{i // 1000:03d}/{i:08d}.tar" for i in range(tars)), lambda key: b"")
        threading.Thread(target=stand.serve_forever, args=(0.05,), daemon=True).start()
        env = {
            **os.environ, "AWS_ENDPOINT_URL": stand.endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1", "PYTHONPATH": f"{code}:{ROOT}",
        }  # fmt: skip
        for name in ("plan", "read"):
            command = [sys.executable, __file__, "--step", name]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, cwd=code)
            rows.append({"tars": tars, "step": name, **json.loads(done.stdout)})
            print(json.dumps(rows[-1]), flush=True)
        stand.shutdown()
    return rows


def step(name: str) -> None:
    """Plan the input into a run, or read that plan; print what it took."""
    from labeler.labels.detections import Detections  # noqa: F401  # what every process has, before the clock starts
    from labeler.prompts.grounding_dino import Prompts
    from labeler.runs import open_run, read_plan
    from labeler.runs.create import NewRun, create_run
    from labeler.runs.plan import PlannedShard
    from labeler.shards import find_shards
    from labeler.vocabulary import Vocabulary

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    if name == "plan":
        plan = [PlannedShard(shard, None) for shard in find_shards("s3://b/in")]
        words = Vocabulary.load([{"id": 1, "name": "cat"}])
        config = {"model": {"name": "x"}, "input": {"keep": []}, "detect": {"max_detections": 300}}
        create_run("s3://b/run", NewRun({"model": "x"}, config, {}, words, Prompts((), frozenset(), 256), plan))
    else:
        run = open_run("s3://b/run")
        assert run is not None
        plan = read_plan(run)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "shards": len(plan),
                "seconds": round(time.perf_counter() - start, 1),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                "peak_mb": round(usage.ru_maxrss / 1024),
                "peak_mb_before": round(before),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())

"""How long a run of hundreds of thousands of units takes to resume: from `labeler label` to the first read task.

    python -m benchmarks.resume_scale --units 400000 --output benchmarks/results/resume-scale.json

The run is 99% done and lies on the stand-in of `benchmarks.slow_s3`, in another process, where a listing takes 50 ms a
page. The job is the real one, with Ray of its own; it is stopped when a read task has asked for the first tar.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.machine import machine
from benchmarks.slow_s3 import Stand
from labeler.config import Config, load_config
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.runs import layout
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard

ROOT = Path(__file__).parent.parent
UNITS, IMAGES = 40, 256  # of a shard, of a unit
_LEFT = 4  # units of each unfinished shard
_TAR = 1 << 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume_scale", description=__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[40_000], help="sizes of the run, one after the other")
    parser.add_argument("--list-s", type=float, default=0.05, help="seconds a page of a listing takes (default 0.05)")
    parser.add_argument("--code", type=Path, default=ROOT, help="a checkout to measure (default: this one)")
    parser.add_argument("--limit-s", type=float, default=900.0, help="give up after this time")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    rows = [measure(units, arguments) for units in arguments.units]
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


def measure(units: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill a bucket with a run, resume it, stop it; the figures."""
    with Stand(list_s=0.0) as stand, tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "AWS_ENDPOINT_URL": stand.endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "RAY_AUTH_MODE": "disabled",
        }  # fmt: skip
        threading.Thread(target=stand.serve_forever, args=(0.05,), daemon=True).start()
        config = _write_config(Path(folder))
        fill(stand, load_config(str(config)), units)
        stand.list_s = arguments.list_s
        stand.asked.clear()
        try:
            return _resume(stand, config, units, arguments)
        finally:
            stand.shutdown()


def fill(stand: Stand, config: Config, units: int) -> None:
    """A run of which one unit in a hundred is left, a few in each of some shards."""
    from labeler.labeling.resolve import resolve_job
    from labeler.pipeline.session import new_run
    from labeler.runs.create import create_run

    shards = units // UNITS
    plan = [
        PlannedShard(Shard(f"{i:06d}", f"s3://b/in/{i:06d}.tar", _TAR, "e", "webdataset", name=f"{i:06d}.tar"), None)
        for i in range(shards)
    ]
    create_run("s3://b/run", new_run(resolve_job(config), plan=plan))
    every = max(1, shards // max(1, units // 100 // _LEFT))
    begun = [shard for shard in range(shards) if shard % every == 0]
    done = [shard for shard in range(shards) if shard % every]
    path = "b/run/{}".format
    stand.objects.fill((path(layout.unit_file(f"{s:06d}", u)) for s in done for u in range(UNITS)), b"x" * 30_000)
    stand.objects.fill((path(layout.unit_file(f"{s:06d}", u)) for s in begun for u in range(UNITS - _LEFT)), _make_unit)
    stand.objects.fill((path(layout.end_marker(f"{s:06d}", UNITS, UNITS * IMAGES)) for s in done), b"")
    stand.objects.fill((f"b/in/{s:06d}.tar" for s in range(shards)), bytes(10_240))


@cache
def _rows() -> list[Row]:
    return [Row(f"{i}.jpg", "000000", i, "s3://b/in/x.tar", "empty", digest=f"{i:032x}") for i in range(IMAGES)]


def _make_unit(key: str) -> bytes:
    from dataclasses import replace

    match = layout.UNIT_FILE.search(key)
    assert match is not None
    first = int(match[2]) * IMAGES
    return table_to_parquet(
        rows_to_table([replace(row, shard_id=match[1], index=first + row.index) for row in _rows()]), {}
    )


def _write_config(folder: Path) -> Path:
    config = folder / "config.yaml"
    values = {
        "input": "s3://b/in", "output": "s3://b/run", "vocabulary": ["red circle", "blue square"],
        "model": {"name": str(ROOT / "models" / "shapes"), "device": "cpu"}, "prompts": {"max_tokens": 128},
    }  # fmt: skip
    config.write_text(json.dumps(values))
    return config


def _resume(stand: Stand, config: Path, units: int, arguments: argparse.Namespace) -> dict[str, Any]:
    start = time.time()
    env = {**os.environ, "PYTHONPATH": str(arguments.code)}
    with (config.parent / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "labeler", "label", str(config), "ray.seed=0"],
            env=env, cwd=config.parent, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            while not _first_read(stand):
                if job.poll() is not None or time.time() - start > arguments.limit_s:
                    raise RuntimeError(f"no read task after {time.time() - start:.0f} s: {log_of(config)}")
                time.sleep(0.2)
            peak_mb, cpu_s = _peak_mb(job.pid), _cpu_s(job.pid)
            load = os.getloadavg()[0]
        finally:
            job.send_signal(signal.SIGINT)
            try:
                job.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
    listed = [each[0] for each in stand.asked if each[0] < _first_read(stand) and _is_of_commits(each[2])]
    row: dict[str, Any] = {
        "units": units,
        "seconds_to_first_read": round(_first_read(stand) - start, 1),
        "first_and_last_page_of_commits_s": [round(at - start, 1) for at in (min(listed), max(listed))],
        "pages_of_commits": len(listed),
        "driver_peak_mb": round(peak_mb),
        "driver_cpu_s": round(cpu_s, 1),
        "load_average": round(load, 1),
        "log": log_of(config),
    }
    print(json.dumps(row), flush=True)
    return row


def _is_of_commits(path: str) -> bool:
    return "list-type" in path and any(f"prefix=run%2F{name}%2F" in path for name in ("labels", "shards"))


def log_of(config: Path) -> list[str]:
    return [line.rstrip() for line in (config.parent / "log").read_text().splitlines()][-5:]


def _first_read(stand: Stand) -> float:
    """When the first GET of a tar came, seconds since 1970; 0 before."""
    return next((at for at, how, path in stand.asked if how == "GET" and urlsplit(path).path.startswith("/b/in/")), 0.0)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    sys.exit(main())

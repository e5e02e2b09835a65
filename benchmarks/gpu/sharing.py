"""Two workers on one GPU, each with half of its memory, against one that has all of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.journal import Journal, in_a_line
from benchmarks.gpu.labeling import decode_threads, items, with_floor
from labeler.detectors.cuda import share_memory
from labeler.labeling.unit import UnitLabeler


def sharing(bench: Bench) -> None:
    alone = _workers(bench, 1)
    together = _workers(bench, 2)
    rates = [sum(worker["images_per_s"] for worker in workers) for workers in (alone, together)]
    bench.journal.row(
        "workers on one GPU",
        alone_images_per_s=round(rates[0], 2),
        together_images_per_s=round(rates[1], 2),
        factor=round(rates[1] / rates[0], 2),
        workers=[*alone, *together],
    )


def _workers(bench: Bench, count: int) -> list[dict[str, Any]]:
    """What each of them says. They begin to label together, when the last has loaded."""
    command = [sys.executable, "-m", "benchmarks.gpu.sharing", str(bench.work), str(1 / count)]
    command += ["--small"] if bench.small else []
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        loaded = [_line(process) for process in running]
        for process in running:
            print("go", file=process.stdin, flush=True)
        return [found | _line(process) for found, process in zip(loaded, running, strict=True)]
    finally:
        for process in running:
            process.kill()
            process.wait()


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a worker says.

    Raises:
        RuntimeError: it says what went wrong, or has ended.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    found: dict[str, Any] = json.loads(line) if line else {"error": f"a worker ended with {process.wait()}"}
    if "error" in found:
        raise RuntimeError(found["error"])
    return found


def _work(folder: Path, part: float, *, small: bool) -> None:
    """One worker: it says when it has loaded, waits for a line, labels for some seconds and says how fast."""
    share_memory(part)
    bench = Bench(Journal(folder, {}, "sharing", "speed", 60), folder, small=small)
    detector = with_floor(bench, bench.detector(1, resize="torch"))
    labeler = UnitLabeler(detector, decode_threads=max(1, int(decode_threads() * part)))
    images = items(4 if small else 160)
    labeler.label("warm", images[:12])
    print(json.dumps({"part": part, "pairs_per_batch": detector.pairs_per_batch}), flush=True)
    sys.stdin.readline()
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < (1 if small else 6):
        labeler.label("measured", images)
        done += len(images)
    rate = done / (time.perf_counter() - began)
    print(json.dumps({"images_per_s": round(rate, 2), "halvings": detector.memory_halvings}), flush=True)


if __name__ == "__main__":
    try:
        _work(Path(sys.argv[1]), float(sys.argv[2]), small="--small" in sys.argv)
    except Exception as error:
        print(json.dumps({"error": in_a_line(error)}), flush=True)
        raise

"""Twelve minutes on a GPU: correctness first, then speed.

    python -m benchmarks.gpu --output out            # on a machine with a GPU; OUT=out make gpu
    python -m benchmarks.gpu --output out --small    # everything at a small size on a CPU; SMALL=1 OUT=out make gpu

It needs torch, transformers, pycocotools, numpy, pillow, pyarrow, pydantic and PyYAML, and runs from the repository's
root without installing it. Results: out/results.jsonl (rows, appended one by one), out/log.txt and out/summary.md.
If a machine can be had for less time, give --total, and the parts that are missing in a second run as --parts: a
folder of results continues from there. Exit code: 1 if a correctness part failed or did not end, 2 if nothing can
be measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu import journal
from benchmarks.gpu.plan import BY_NAME, CORRECTNESS, PARTS, TOTAL_S, Part
from benchmarks.gpu.summary import summary

ROOT = Path(__file__).parent.parent.parent
_LEAST_S = 5  # a part does not start with less
_SMALL_TIMES = 20  # as long as on a GPU: a CPU that others use as well is slow to import torch
_PROBE = """
import json
from benchmarks.machine import machine
from labeler.detectors.cuda import why_no_cuda
print(json.dumps({**machine(), "no_gpu": why_no_cuda()}))
"""


class Runner:
    """Runs parts one after the other, each in a process group of its own that is killed at its limit."""

    def __init__(self, out: Path, work: Path, about: dict[str, Any], *, small: bool, total_s: float) -> None:
        self._out, self._work, self._about, self._small = out, work, about, small
        self._began, self._total_s = time.monotonic(), total_s

    def run(self, part: Part) -> str:
        """The part's outcome; a row says it, too."""
        began = time.monotonic()
        left = self._total_s - (began - self._began)
        limit_s = min(part.limit_s, left)
        if limit_s < min(part.limit_s, _LEAST_S):
            return self._ended(part, journal.SKIPPED, f"{max(0.0, left):.0f} s left of {self._total_s:.0f}", 0)
        print(f"{part.name}: {limit_s:.0f} s at most", flush=True)
        with (self._out / "log.txt").open("ab") as log:
            code = self._process(part, limit_s, log)
        took_s = time.monotonic() - began
        if code is None:
            return self._ended(part, journal.FAILED, f"killed at its limit of {limit_s:.0f} s", took_s)
        if code == 1:
            return self._ended(part, journal.FAILED, "a check or a step failed", took_s)
        if code:
            return self._ended(part, journal.FAILED, f"its process ended with {code}; log.txt has its output", took_s)
        return self._ended(part, journal.ENDED, "", took_s)

    def _process(self, part: Part, limit_s: float, log: IO[bytes]) -> int | None:
        """The exit code; None where the process was killed at the limit."""
        command = [sys.executable, "-m", "benchmarks.gpu.part", part.name, str(self._out), str(self._work)]
        command += ["--until", str(time.time() + limit_s), *(["--small"] if self._small else [])]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(self._work), stdout=log, stderr=log, start_new_session=True
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also on Ctrl-C; and whatever a part has started goes with it
            _kill_group(process.pid)
            process.wait()

    def _ended(self, part: Part, outcome: str, reason: str, took_s: float) -> str:
        row = {"part": part.name, "kind": part.kind, "what": journal.PART, "outcome": outcome}
        row |= {"reason": reason} if reason else {}
        journal.append(self._out / journal.RESULTS, {**row, "took_s": round(took_s, 1), **self._about})
        print(f"{part.name}: {outcome}{f': {reason}' if reason else ''} ({took_s:.0f} s)", flush=True)
        return outcome


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def environment(work: Path) -> dict[str, str]:
    """Of a part's process: nothing is fetched, output is not held back, and triton's kernels are kept in `work`."""
    given = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_DISABLE_TORCH_CHECK": "1",  # it waits for the GPU 12 times per forward pass
    }
    return {"TRITON_CACHE_DIR": str(work / "triton"), **os.environ, **given}


def probe() -> dict[str, Any]:
    """What this machine is. Asked in a process of its own: this one holds no memory of the GPU.

    Raises:
        RuntimeError: a package that is needed cannot be imported.
    """
    found = subprocess.run(
        [sys.executable, "-c", _PROBE], cwd=ROOT, env=environment(Path(".")), capture_output=True, text=True
    )
    if found.returncode:
        raise RuntimeError((found.stderr.strip().splitlines() or ["python printed nothing"])[-1])
    answer: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return answer


def announce(parts: Sequence[Part], about: dict[str, Any], total_s: float, out: Path) -> None:
    """Say what is going to run, and for how long at most."""
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "transformers", "triton"))
    print(f"{about['device']}, {about['cpus']} cores, {versions}, commit {about['commit']}")
    print(f"{len(parts)} parts, {total_s:.0f} s at most; rows go to {out / journal.RESULTS}")
    for part in parts:
        print(f"  {part.name:11}{part.kind:12}{part.limit_s:4} s  {part.does}")
    print(flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_out"), help="folder for the results")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint and triton's kernels; default: temporary")
    parser.add_argument("--small", action="store_true", help="all parts at a small size, on a CPU too; limits times 20")
    parser.add_argument("--parts", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="PART")
    parser.add_argument(
        "--total",
        type=float,
        default=TOTAL_S,
        metavar="SECONDS",
        help="for all parts together (20 times that with --small)",
    )
    asked = parser.parse_args(argv)
    try:
        about = probe()
    except RuntimeError as error:
        print(f"benchmarks.gpu cannot run with {sys.executable}: {error}", file=sys.stderr)
        return 2
    no_gpu = about.pop("no_gpu")
    if no_gpu and not asked.small:
        print(f"no GPU that can be used here ({no_gpu}); --small (SMALL=1) measures on the CPU", file=sys.stderr)
        return 2
    asked.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="labeler-gpu-") as temporary:
        work = (asked.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        return _run(asked, work, about)


def _run(asked: argparse.Namespace, work: Path, about: dict[str, Any]) -> int:
    (work / "about.json").write_text(json.dumps(about))
    have = (work / "checkpoint" / "config.json").exists()
    times = _SMALL_TIMES if asked.small else 1
    parts = [
        replace(part, limit_s=times * part.limit_s)
        for part in PARTS
        if part.name in asked.parts or (part is PARTS[0] and not have)
    ]
    total_s = times * asked.total
    announce(parts, about, total_s, asked.output)
    runner = Runner(asked.output.absolute(), work, about, small=asked.small, total_s=total_s)
    outcomes = {part.name: runner.run(part) for part in parts}
    text = summary(journal.read(asked.output / journal.RESULTS))
    (asked.output / "summary.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    failed = [name for name, outcome in outcomes.items() if outcome == journal.FAILED]
    wrong = [name for name in failed if BY_NAME[name].kind in (CORRECTNESS, PARTS[0].kind)]
    if wrong:
        print(f"failed: {', '.join(wrong)}; {asked.output / 'log.txt'} has the output", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise SystemExit(main())

"""The process of one part: `python -m benchmarks.gpu.part PART OUT WORK --until TIME [--small]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.plan import BY_NAME


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(BY_NAME))
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--until", type=float, required=True, help="seconds since 1970; then this process is killed")
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    part = BY_NAME[asked.part]
    about = json.loads((asked.work / "about.json").read_text())
    journal = Journal(asked.out, about, part.name, part.kind, asked.until - time.time())
    module, _, function = part.function.partition(":")
    run = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)
    journal.step(part.name, partial(run, Bench(journal, asked.work, small=asked.small)), needs_s=0)
    journal.check("without Ray", "ray" not in sys.modules)
    return 1 if journal.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""A revision against a full run: seconds and passes of `labeler label` and of `labeler revise`, one after the other.

    python -m benchmarks.revise --images 500

Synthetic scenes, the shapes checkpoint and its 80 names in chunks of 64 tokens. One name is removed, one gets other
words and one is added. A run of the new names has as many passes as that of the old ones, so the run itself is what the
revision is held against. Both start a Ray of their own; `detecting` is what their worker was busy with the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from labeler.training.shapes import ALL, write_data_set

CHECKPOINT = "models/shapes"


def changed_names() -> list[str]:
    """One name less, one in other words, one more."""
    names = [combination.name for combination in ALL][1:]
    return [*names[:-1], " ".join(reversed(names[-1].split())), "heart ring"]


def timed(command: list[str], run: Path) -> dict[str, Any]:
    """Seconds of a command, and what its run's report says of the work."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "labeler", *command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    report = json.loads((run / "report.json").read_text())
    return {"seconds": seconds, "passes": report["passes"], "detecting_s": report["stage_seconds"]["detect"]}


def measure(folder: Path, images: int) -> dict[str, Any]:
    """Label the scenes, revise the run, and say what each took."""
    data = write_data_set(str(folder / "data"), images=images, seed=9001)
    config = {
        "input": str(folder / "data" / "shards"),
        "output": str(folder / "run"),
        "vocabulary": data.vocabulary,
        "model": {"name": CHECKPOINT, "device": "cpu"},
        "prompts": {"max_tokens": 64},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "new.txt").write_text("\n".join(changed_names()))
    full = timed(["label", str(folder / "config.yaml")], folder / "run")
    revise = ["revise", str(folder / "run"), "--vocabulary", str(folder / "new.txt")]
    return {"label": full, "revise": timed(revise, folder / "run-revised")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), asked.images)
    for name, row in found.items():
        print(
            f"{name:8} {row['seconds']:7.1f} s, {row['passes'] / asked.images:.3g} passes an image, "
            f"{row['detecting_s']:7.1f} s detecting"
        )
    if asked.output:
        asked.output.write_text(json.dumps({"machine": machine(), "images": asked.images, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m jobs.train CONFIG [key=value ...]`: exit code 0 trained to the end, 1 stopped on the way, 2 refused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from labeler.errors import LabelerError


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the configuration says; returns the exit code. Errors meant for the user are printed in a line each."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train",
        description="Train a Grounding DINO on drawn shapes, a COCO file or a run's labels; goes on where it was.",
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file: output, model, data, prompts, optimizer, train")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override, e.g. train.steps=500")
    arguments = parser.parse_args(argv)
    try:
        _run(arguments.config, arguments.overrides)
    except LabelerError as error:
        print(f"labeler: {error}", file=sys.stderr)
        for problem in getattr(error, "problems", ()):
            print(f"  {problem}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(path: str, overrides: Sequence[str]) -> None:
    from labeler.training.config import load_training_job
    from labeler.training.job import run_worker

    job = load_training_job(path, overrides)
    if job.ray.workers:
        from labeler.training.on_ray import run_on_ray

        run_on_ray(job)
    else:
        run_worker(job, report=print_record)


def print_record(record: Mapping[str, Any]) -> None:
    """One record of the log as a line."""
    shown = {k: v for k, v in record.items() if not k.endswith("_encoder")}
    print("  ".join(f"{name} {value:g}" for name, value in shown.items()), flush=True)

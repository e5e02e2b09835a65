"""Runs of drawn boxes to export, and what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeler.cli import main
from labeler.exports.splits import key_of
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.runs import Run
from tests.label_runs import row, write_run

# cat, a dog over it with a lower score, a thin cat, a large dog
FOUR = Detections.of(
    [[10, 10, 50, 50], [11, 10, 50, 50], [100, 100, 100.5, 160], [200, 100, 400, 300]],
    [0.9, 0.8, 0.7, 0.4],
    [3, 8, 3, 8],
)


def run_of(folder: Path, rows: Sequence[Row], **options: Any) -> Run:
    units = {(0, n): list(rows[start : start + 50]) for n, start in enumerate(range(0, len(rows), 50))}
    return write_run(folder / "run", units, **options)


def export(run: Run, *options: str, to: str = "coco") -> Any:
    target = Path(run.uri).parent / f"{abs(hash(options))}.json"
    assert main(["export", run.uri, "--to", to, "--output", str(target), *options]) == 0
    return json.loads(target.read_text())


def boxes(exported: Any) -> list[tuple[int, float]]:
    return [(a["category_id"], a["score"]) for a in exported["annotations"]]


def images(count: int, *, first: int = 0, **values: Any) -> list[Row]:
    rng = np.random.default_rng(7)
    hashes = rng.integers(-(2**63), 2**63, count + first)  # far from each other
    return [
        row(i, FOUR, **({"phash": int(hashes[i]), "digest": f"{key_of(str(i)):032x}"} | values))
        for i in range(first, first + count)
    ]

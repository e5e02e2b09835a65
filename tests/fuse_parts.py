"""Two small runs over the same images, and their fusion, for tests of `labeler fuse`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.runs import Run, open_run, read_snapshot
from tests.label_runs import row, write_run

CAT, DOG = 3, 8
LEFT, RIGHT = [10, 10, 60, 60], [100, 100, 250, 300]


def boxes(*found: tuple[list[float], float, int]) -> Detections:
    return Detections.of([box for box, _, _ in found], [score for _, score, _ in found], [id_ for _, _, id_ in found])


FIRST = [
    row(0, boxes((LEFT, 0.8, CAT))),
    row(1),
    row(2, boxes((RIGHT, 0.6, DOG))),
    row(3, boxes((LEFT, 0.5, CAT))),
    row(4, status="decode_error", digest=None),
    row(5, boxes((LEFT, 0.4, CAT))),
]
SECOND = [
    row(0, boxes((LEFT, 0.6, CAT))),
    row(1, boxes((RIGHT, 0.9, DOG))),
    row(2, status="read_error", digest=None),
    row(3, boxes((RIGHT, 0.7, CAT))),
    row(4, boxes((LEFT, 0.4, CAT))),
    row(5, digest="f" * 32),
]


def in_units(rows: Sequence[Row], images: int = 2) -> dict[tuple[int, int], Sequence[Row]]:
    return {(0, n): rows[start : start + images] for n, start in enumerate(range(0, len(rows), images))}


def two_runs(folder: Path, second: Sequence[Row] = SECOND, **options: Any) -> tuple[Run, Run]:
    first = write_run(folder / "a", in_units(FIRST), fields={"model": "a"})
    return first, write_run(folder / "b", in_units(second), **{"fields": {"model": "b"}, **options})


def fuse(folder: Path, *options: str, runs: Sequence[str] = ("a", "b")) -> int:
    scores = () if "--calibration" in options or "--calibrated" in options else ("--raw-scores",)
    given = [option for option in options if option != "--calibrated"]
    return main(["fuse", *(str(folder / name) for name in runs), "--output", str(folder / "fused"), *scores, *given])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    run = open_run(str(folder))
    assert run is not None
    rows: list[dict[str, Any]] = pa.concat_tables(list(read_snapshot(run).tables())).to_pylist()
    return rows


def short(found: Mapping[str, Any]) -> tuple[int, float, int, int]:
    return found["category_id"], round(found["score"], 3), round(found["x_min"]), found["agreement"]

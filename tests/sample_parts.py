"""A run whose right boxes are known, and samples of it, for tests of `labeler sample`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.labels.detections_column import DetectionsColumn
from labeler.runs import Run, read_snapshot
from tests.label_runs import noisy_run

SHARPNESS = {3: 1.0, 8: 0.5}  # chance of being right: score, and its square root


class Known:
    """A run, and which of its boxes are right."""

    def __init__(self, folder: Path) -> None:
        self.run, truth = noisy_run(folder / "run", SHARPNESS, images=60)
        there = {(a["image_id"] - 1, a["category_id"], *a["bbox"][:2]) for a in truth["annotations"]}
        self.right: dict[tuple[int, int], bool] = {}
        self.score: dict[tuple[int, int], float] = {}
        self.category: dict[tuple[int, int], int] = {}
        for table in read_snapshot(self.run).tables():
            for shown, found in zip(table.to_pylist(), DetectionsColumn(table).per_row(masks=False), strict=True):
                for box in range(len(found)):
                    key = shown["index"], box
                    x, y = found.boxes[box][:2].tolist()
                    self.right[key] = (shown["index"], int(found.category_ids[box]), x, y) in there
                    self.score[key], self.category[key] = float(found.scores[box]), int(found.category_ids[box])

    def marks(self, path: Path, *, every: int = 1, run_id: str | None = None, by_digest: bool = False) -> Path:
        """Marks of the boxes of a sample, as a report writes them."""
        marks = []
        for image in json.loads(path.read_text())["images"]:
            name = image["digest"] if by_digest else f"{image['shard_id']}/{image['index']}"
            for box in image["boxes"]:
                right = self.right[image["index"], box["box"]]
                marks.append({"image": name} | {k: box[k] for k in ("box", "category_id", "score")} | {"right": right})
        out = path.with_suffix(f".{every}.marks.json")
        out.write_text(json.dumps({"run": run_id or self.run.manifest.run_id, "marks": marks[::every]}))
        return out

    def precision(self, threshold: float, category: int | None = None) -> float:
        kept = [
            right for key, right in self.right.items()
            if self.score[key] >= np.float32(threshold) and category in (None, self.category[key])
        ]  # fmt: skip
        return float(np.mean(kept))


def sample(run: Run, out: Path, *options: str) -> dict[str, Any]:
    assert main(["sample", run.uri, "--for", "review", "--output", str(out), *options]) == 0
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("labeler: ")
    return lines[0]


def all_boxes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"index": image["index"], **box} for image in values["images"] for box in image["boxes"]]


def tasks_of(run: Run, out: Path, path: Path, to: str) -> Path:
    assert main(["export", run.uri, "--to", to, "--sample", str(path), "--output", str(out)]) == 0
    return out

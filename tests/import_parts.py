"""Labels from elsewhere for tests of `labeler import`: exports of a run, documents made of them, small inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import open_run, read_snapshot
from tests.inputs import image_bytes
from tests.review_runs import CATEGORIES, SIZE

NAMES = [dict(category) for category in CATEGORIES if category["name"] in ("cat", "dog", "unicorn")]


def boxes_of(rng: np.random.Generator, item: Any) -> Detections:
    """0 to 6 boxes anywhere, with all the digits that a detector gives them."""
    count = int(rng.integers(0, 7))
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (count, 2))], 1)
    return Detections.of(boxes, rng.uniform(0.05, 1, count), rng.choice([3, 8], count)).sorted()


def export(run: Path, to: str, output: Path) -> Path:
    assert main(["export", str(run), "--to", to, "--threshold", "0", "--output", str(output)]) == 0
    return output


def import_(original: Path, file: Path, format: str, output: Path, *more: str, expect: int = 0) -> Path:
    command = ["import", str(file), "--images", str(original / "in"), "--from", format, "--output", str(output), *more]
    assert main(command) == expect
    return output


def rows_of(run: Path) -> list[dict[str, Any]]:
    opened = open_run(str(run))
    assert opened is not None
    rows: list[dict[str, Any]] = pa.concat_tables(list(read_snapshot(opened).tables())).to_pylist()
    return rows


def coco(file: Path) -> Any:
    """Without what says which run it is of, and areas, which are of sides with all their digits."""
    found = {key: value for key, value in json.loads(file.read_text()).items() if key != "info"}
    for note in found["annotations"]:
        if "segmentation" not in note:
            assert note.pop("area") == pytest.approx(note["bbox"][2] * note["bbox"][3], abs=1)
    return found


def yolo(folder: Path) -> Any:
    """A file's lines are a set: by score, where there are scores."""
    found = {str(p.relative_to(folder)): sorted(p.read_text().splitlines()) for p in (folder / "labels").rglob("*.txt")}
    return found | {"data.yaml": [(folder / "data.yaml").read_text()]}


def tasks(folder: Path) -> Any:
    found = json.loads((folder / "tasks-00000.json").read_text())
    for task in found:
        task["data"].pop("labeler_run")
        for prediction in task["predictions"]:
            prediction.pop("model_version")
    return found


def tables(folder: Path) -> Any:
    both = [pq.read_table(next((folder / name).glob("*.parquet"))).to_pylist() for name in ("images", "boxes")]
    return [
        {k: v for k, v in row.items() if k not in ("run_id", "model_digest", "phash")}
        for table in both
        for row in table
    ]


def document(original: Path, **changes: Any) -> dict[str, Any]:
    """A small COCO file about three images of the input, with one box per image; members may be replaced."""
    keys = [f"part-0.tar/{row['image_key']}" for row in rows_of(original / "run")[:3]]
    width, height = SIZE
    values: dict[str, Any] = {
        "images": [{"id": i, "file_name": k, "width": width, "height": height} for i, k in enumerate(keys)],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 3, "bbox": [5, 5, 20, 20]} for i in range(3)],
    }
    return values | changes


def import_document(original: Path, folder: Path, values: Any, *more: str, expect: int = 0) -> Path:
    (folder / "labels.json").write_text(json.dumps(values))
    return import_(original, folder / "labels.json", "coco", folder / "run", *more, expect=expect)


def small_input(folder: Path, *names: str, seed: int | None = None) -> None:
    for number, name in enumerate(names):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number if seed is None else seed, width=160, height=120, format="JPEG"))


def import_small(folder: Path, file: Path, format: str, *more: str, expect: int = 0) -> list[dict[str, Any]]:
    output = folder / "run"
    command = ["import", str(file), "--images", str(folder / "in"), "--from", format, "--output", str(output), *more]
    assert main(command) == expect
    assert expect == 0 or not output.exists()
    return rows_of(output) if expect == 0 else []


def write_coco(folder: Path, image: dict[str, Any], *notes: dict[str, Any], categories: bool = True) -> Path:
    file = folder / "coco.json"
    about = {"image_id": 0, "category_id": 1}
    listed = [{"id": 1, "name": "cat"}] if categories else []
    values = {"images": [{"id": 0, **image}], "categories": listed, "annotations": [{**about, **n} for n in notes]}
    file.write_text(json.dumps(values))
    return file

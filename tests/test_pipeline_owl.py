"""OWL-ViT and OWLv2 with random weights through the whole pipeline: 50 synthetic scenes, names and a crop, on Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from labeler.config import make_config
from labeler.pipeline.derive import retry
from labeler.pipeline.label import label
from labeler.runs import Run, open_run, read_snapshot
from labeler.training.shapes.scenes import draw_scene
from tests.owl_model import KINDS, NAMES, Kind, owl_checkpoint

SCENES, SIZES = 50, ((128, 96), (96, 160), (200, 64))
SWAPPED = {1: 2, 2: 1, 3: 3, 4: 4, 5: 5}
QUIET = Console(file=io.StringIO())


def vocabulary(folder: Path, names: tuple[str, ...]) -> Path:
    """The names, and a crop without a name."""
    folder.mkdir()
    Image.fromarray(draw_scene(7, 0, sizes=[(64, 64)]).image).save(folder / "crop.png")
    (folder / "names.json").write_text(json.dumps([*names, {"name": "thing", "phrases": [{"image": "crop.png"}]}]))
    return folder / "names.json"


def opened(folder: Path) -> Run:
    run = open_run(str(folder))
    assert run is not None
    return run


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows = [row for table in read_snapshot(run).tables() for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["image_key"])


@pytest.mark.slow  # half a minute per family: two runs and a retry
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_scenes_are_labeled_swapped_names_swap_ids_and_a_retry_needs_no_crop_file(
    kind: Kind, tmp_path: Path
) -> None:
    checkpoint = owl_checkpoint(tmp_path / "model", kind)
    source = tmp_path / "in"
    source.mkdir()
    for number in range(SCENES):
        Image.fromarray(draw_scene(5, number, sizes=SIZES).image).save(source / f"{number:02}.png")
    Image.new("RGB", (300, 300)).save(source / "large.png")
    shared = {"input": str(source), "model": {"name": str(checkpoint)}, "ray": {"cpus_per_worker": 1}}
    limits = ["detect.max_pixels=50000", "unit.max_images=20"]

    def labeled(output: str, names: tuple[str, ...]) -> Run:
        values = shared | {
            "output": str(tmp_path / output),
            "vocabulary": str(vocabulary(tmp_path / f"v-{output}", names)),
        }
        outcome = label(make_config(values, limits), console=QUIET)
        assert outcome.report.complete
        return opened(tmp_path / output)

    run = labeled("out", NAMES)
    rows = rows_of(run)
    assert sum(row["status"] == "labeled" and len(row["detections"]) > 0 for row in rows) >= 40
    assert rows[-1]["status"] == "too_large"
    found = {box["category_id"] for row in rows for box in row["detections"]}
    assert {1, 2} <= found
    for row in rows:
        for box in row["detections"]:
            assert 0 <= box["x_min"] < box["x_max"] <= row["width"]
            assert 0 <= box["y_min"] < box["y_max"] <= row["height"]
            assert 0.02 <= box["score"] <= 1
    fields = run.manifest.fingerprint_fields
    assert (fields["family"], fields["detect.score_floor"]) == (kind, 0.02)
    assert run.manifest.config["detect"]["score_floor"] == 0.02

    swapped = rows_of(labeled("swapped", (NAMES[1], NAMES[0], *NAMES[2:])))
    for row, other in zip(rows, swapped, strict=True):
        ids = [SWAPPED[box["category_id"]] for box in row["detections"]]
        assert [box["category_id"] for box in other["detections"]] == ids
        np.testing.assert_allclose(
            [box["score"] for box in other["detections"]], [box["score"] for box in row["detections"]], atol=1e-5
        )

    (tmp_path / "v-out" / "crop.png").unlink()
    (tmp_path / "v-out" / "names.json").unlink()
    again = retry(run, ["too_large"], str(tmp_path / "again"), overrides=["detect.max_pixels=100000"], console=QUIET)
    assert again is not None
    assert rows_of(opened(tmp_path / "again"))[-1]["status"] == "labeled"
    assert opened(tmp_path / "again").prompts() == run.prompts()

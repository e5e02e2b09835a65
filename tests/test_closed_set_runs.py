"""Closed sets through the whole pipeline: every model type on synthetic scenes, in one Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from labeler.cli import main
from labeler.config import Config, make_config
from labeler.labeling.recipe import detector_recipe
from labeler.labeling.resolve import resolve_job
from labeler.pipeline.label import label
from labeler.runs import open_run, read_snapshot
from labeler.training import shapes
from tests.closed_sets import LABELS, TYPES, Poisoned, make_checkpoint

pytestmark = pytest.mark.usefixtures("local_ray")
SCENES = 50
# For `make test`, tests/test_families.py labels with a closed set on Ray.
EVERY_TYPE = [pytest.param(name, marks=pytest.mark.slow) for name in TYPES]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    drawn = shapes.write_data_set(str(tmp_path_factory.mktemp("scenes")), images=SCENES, seed=5, sizes=[(160, 120)])
    return str(Path(drawn.shards[0]).parent)


def config_of(scenes: str, output: Path, checkpoint: Path, **model: Any) -> Config:
    return make_config(
        {
            "input": scenes,
            "output": str(output),
            "vocabulary": "from_model",
            "model": {"name": str(checkpoint), **model},
            "ray": {"cpus_per_worker": 1},
        }
    )


def run_label(config: Config, **options: Any) -> dict[str, int]:
    return dict(label(config, console=Console(file=io.StringIO()), **options).report.statuses)


def rows_of(output: Path) -> list[dict[str, Any]]:
    run = open_run(str(output))
    assert run is not None
    return [row for table in read_snapshot(run).tables() for row in table.to_pylist()]


@pytest.mark.parametrize("model_type", EVERY_TYPE)
def test_every_type_labels_scenes(model_type: str, scenes: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    spread = 4 if model_type == "rf_detr" else 2  # of the scores: so that most images have one above the floor
    statuses = run_label(config_of(scenes, output, make_checkpoint(tmp_path / "model", model_type, spread=spread)))
    assert sum(statuses.values()) == SCENES
    assert statuses["labeled"] >= 40
    found = [box for row in rows_of(output) for box in row["detections"]]
    assert {box["category_id"] for box in found} <= {1, 2, 3, 4}  # the checkpoint's own numbers
    run = open_run(str(output))
    assert run is not None
    fields = run.manifest.fingerprint_fields
    assert (fields["family"], fields["family_version"]) == ("closed-set", 1)
    assert "tokenizer" not in fields


@pytest.mark.slow
def test_a_run_of_a_model_of_its_own_vocabulary_is_checked_resumed_retried_and_exported(
    scenes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, output, derived = make_checkpoint(tmp_path / "model", "yolos"), tmp_path / "run", tmp_path / "again"
    assert main(["vocabulary", "check", "from_model", "--model", str(checkpoint)]) == 0
    said = capsys.readouterr().out
    assert "from_model: 4 categories (0 negative), 4 phrases, ids 1..4" in said
    assert "4 of the checkpoint's 6 labels, one pass of the detector per image" in said

    config = config_of(scenes, output, checkpoint, labels={"circle": "disc"})
    written = tmp_path / "label.yaml"
    written.write_text(json.dumps(config.model_dump(mode="json")))
    assert main(["label", str(written), "--dry-run"]) == 0
    assert "4 categories in 4 of the checkpoint's 6 labels" in capsys.readouterr().out

    poisoned = Poisoned(detector_recipe(resolve_job(config), threads=1))
    assert run_label(config, make_detector=poisoned) == {"detect_error": SCENES}  # never "empty"
    assert {row["error"] for row in rows_of(output)} == {"the model's scores or boxes are NaN or infinite"}
    assert main(["retry", str(output), "--status", "detect_error", "--output", str(derived)]) == 0
    assert sum(bool(row["detections"]) for row in rows_of(derived)) >= 40
    assert main(["status", str(derived)]) == 0
    coco = tmp_path / "coco.json"
    assert main(["export", str(derived), "--to", "coco", "--threshold", "0.05", "--output", str(coco)]) == 0
    named = {category["id"]: category["name"] for category in json.loads(coco.read_text())["categories"]}
    assert named == {1: "disc", 2: "square", 3: "triangle", 4: "traffic light"}
    assert LABELS[1] == "circle"

    assert main(["label", str(written)]) == 0  # the same run resumes: nothing is left
    capsys.readouterr()
    assert main(["label", str(written), "model.labels={square: disc}"]) == 2
    assert "vocabulary: the run has" in capsys.readouterr().err

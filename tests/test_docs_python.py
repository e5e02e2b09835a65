"""docs/guides/python.md and the examples of the Python API: what they name exists, and what they run works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import labeler
from examples.dag_task import label_task
from tests.conftest import NAMES
from tests.inputs import image_bytes, write_tars

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "python.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.usefixtures("local_ray")


def run_program(program: str, replaced: dict[str, str]) -> dict[str, Any]:
    for before, after in replaced.items():
        assert before in program
        program = program.replace(before, after)
    names: dict[str, Any] = {}
    exec(compile(program, "program", "exec"), names)
    return names


def test_every_name_exists() -> None:
    for name in set(re.findall(r"`?labeler\.([A-Za-z_]+)[`(]", PAGE)):
        assert getattr(labeler, name)
    run = labeler.LabeledRun
    for name in set(re.findall(r"`(?:run\.)(\w+)", PAGE)):
        assert hasattr(run, name), name


@pytest.mark.slow
def test_the_programs_of_the_page_run(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shards = write_tars(tmp_path / "in", shards=1, images=3)
    (tmp_path / "photo.jpg").write_bytes(image_bytes(1, width=90, height=80, format="JPEG"))
    model = {"IDEA-Research/grounding-dino-tiny": str(checkpoint)}
    whole, detector = PROGRAMS
    places = {"s3://my-bucket/shards": str(shards), "s3://my-bucket/labels/run-1": str(tmp_path / "run")}
    run_program(whole, model | places | {'"cat", "dog"': ", ".join(f'"{name}"' for name in NAMES)})
    assert json.loads((tmp_path / "labels.json").read_text())["images"]
    assert "3 3" in capsys.readouterr().out
    run_program(detector, model | {'"coco"': str(list(NAMES))})


@pytest.mark.slow
def test_a_task_of_a_dag_may_be_repeated(tmp_path: Path, checkpoint: Path) -> None:
    config = {
        "input": str(write_tars(tmp_path / "in", shards=1, images=3)),
        "output": str(tmp_path / "run"),
        "vocabulary": list(NAMES),
        "model": {"name": str(checkpoint)},
    }
    first = label_task(config, threshold=0.0)
    assert (first["images"], first["annotations"] > 0) == (3, True)
    assert label_task(config, threshold=0.0) == first


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    notebook = json.loads((ROOT / "examples" / "label_and_look.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["run"].is_complete
    assert names["exported"].totals.annotations > 20

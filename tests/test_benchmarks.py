"""The benchmark commands run, at a small size, through the code they measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import calibration_table, export_scale, feeding
from labeler.runs import read_plan, read_progress, read_tables
from tests.label_runs import noisy_run


def test_the_synthetic_run_is_a_complete_run(tmp_path: Path) -> None:
    run = export_scale.write_run(tmp_path / "run", images=600, boxes=5, vocabulary="coco")
    plan, progress = read_plan(run), read_progress(run)
    assert progress.is_complete(plan)
    assert sum(table.num_rows for table in read_tables(run, plan, progress)) == 600


@pytest.mark.slow  # eight child processes
def test_export_scale_prints_a_line_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["export_scale", str(tmp_path / "work"), "--images", "300", "--boxes", "4"])
    assert export_scale.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.endswith("MB peak") for line in lines[1:])


def test_the_calibration_table_is_about_images_that_were_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 1.0, 8: 0.5}, images=200)
    seen, unseen = calibration_table.halves(truth)
    assert not {i["id"] for i in seen["images"]} & {i["id"] for i in unseen["images"]}
    assert len(seen["images"]) + len(unseen["images"]) == 200
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    command = [run.uri, "--annotations", str(tmp_path / "gt.json"), "--targets", "0.7,0.9"]
    assert calibration_table.main(command) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [float(row[0]) for row in rows] == [0.7, 0.9]
    assert all(float(reached) >= float(asked) - 0.01 for asked, reached, *_ in rows)
    assert float(rows[0][2]) > float(rows[1][2]) > 0.1, "more precision costs recall"


def test_feeding_measures_every_way_on_every_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "results" / "feeding.json"
    command = ["--sizes", "640x480", "--images", "1", "--rounds", "2", "--no-threads", "--output", str(target)]
    assert feeding.main(command) == 0
    result = json.loads(target.read_text())
    (row,) = result["sizes"].values()
    assert {"device", "versions", "commit"} <= result["machine"].keys()
    assert {"decode", "decode, draft", "resize, pillow", "resize, torch", "all, torch, draft"} <= row["ms"].keys()
    assert all(len(values) == 2 and min(values) > 0 for values in row["ms"].values())
    assert capsys.readouterr().out.count("\n") == 2 + len(row["ms"])

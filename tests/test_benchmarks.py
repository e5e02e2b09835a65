"""The benchmark commands run, at a small size, through the code they measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    annotation_files,
    backgrounds,
    batching,
    calibration_table,
    chunk_precision,
    export_scale,
    feeding,
    masks,
    merging,
    plot,
    predict,
    unit_path,
)
from benchmarks.worker_clocks import BEGUN, WORKER, Commit, clocks, read_commits
from labeler import checkpoints
from labeler.errors import Refused
from labeler.evaluation import read_ground_truth
from labeler.labels.detections import Detections
from labeler.labels.records import rows_to_table, table_to_parquet
from labeler.runs import iterate_units, read_plan, read_progress
from labeler.training.validation import ValidationImage, ValidationSet
from labeler.vocabulary import Vocabulary
from tests.inputs import write_tars
from tests.label_runs import noisy_run

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def test_the_synthetic_run_is_a_complete_run(tmp_path: Path) -> None:
    run = export_scale.write_run(tmp_path / "run", images=600, boxes=5, vocabulary="coco")
    plan, progress = read_plan(run), read_progress(run)
    assert not progress.left(plan)
    assert sum(table.num_rows for _, table in iterate_units(plan, progress)) == 600


@pytest.mark.slow  # eight child processes
def test_export_scale_prints_a_line_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["export_scale", str(tmp_path / "work"), "--images", "300", "--boxes", "4"])
    assert export_scale.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.endswith("MB peak") for line in lines[1:])


def test_forwards_are_fuller_when_images_of_one_shape_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(480, 640), (640, 480), (426, 640), (500, 375)]
    images = [{"id": n, "height": height, "width": width} for n, (height, width) in enumerate(sizes)]
    (tmp_path / "gt.json").write_text(json.dumps({"images": images}))
    output = tmp_path / "batching.json"
    monkeypatch.setattr(sys, "argv", ["batching", str(tmp_path / "gt.json"), "--units", "3", "--output", str(output)])
    batching.main()
    rows = json.loads(output.read_text())["rows"]
    assert [row["batch"] for row in rows] == [8, 16, 32]
    assert all(row["pooled"] > 1.5 * row["in order"] for row in rows)
    assert capsys.readouterr().out.count("\n") == 1 + len(rows)


def test_the_path_of_a_unit_is_counted_from_its_config_to_its_commit(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=3)
    config = {"input": str(tmp_path / "in"), "vocabulary": ["cat"], "model": {"name": str(checkpoint), "device": "cpu"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "output": "unused"}))
    assert unit_path.main([str(tmp_path / "config.json"), "--list"]) == 0
    printed = capsys.readouterr().out
    for function in ("labeling/resolve.py: resolve_job", "shards/find.py: find_shards", "shards/tar_members.py: walk"):
        assert f"  {function}\n" in printed
    assert "  1 pipeline/worker.py: commit\n  2 storage/__init__.py: put_if_absent\n" in printed
    assert "<" not in printed.replace("<locals>", "")
    assert [line.split()[0] for line in printed.splitlines()[-8:]] == [
        *("resolve", "plan", "read", "block", "load", "label", "commit"),
        "path",
    ]
    depth = {line.split()[0]: int(line.split()[2]) for line in printed.splitlines()[-8:]}
    assert depth["read"] <= 12, "a layer more between a unit and its bytes: is it needed?"
    assert depth["label"] <= 14, "another layer between a unit and its forward pass: is it needed?"


def test_an_object_with_two_names_is_counted_until_suppression_leaves_one() -> None:
    boxes = np.asarray([[0, 0, 40, 40], [50, 50, 90, 90]], np.float32)
    image = ValidationImage(np.zeros((100, 100, 3), np.uint8), boxes, np.asarray([1, 2]))
    vocabulary = Vocabulary.load(["cat", "dog"])
    data = ValidationSet((image,), vocabulary, {})
    found = [Detections.of(boxes[[0, 0, 1]], [0.9, 0.8, 0.7], [1, 2, 2])]
    row = chunk_precision.judge(data, 2, found, None)
    assert (row.two_names, row.recall, row.precision) == (0.5, 1.0, 0.6667)
    row = chunk_precision.judge(data, 2, found, 0.5)
    assert (row.two_names, row.recall, row.precision) == (0.0, 1.0, 1.0)


@pytest.mark.slow  # a whole model, over thirteen chunks
def test_the_table_of_chunks_and_precision_has_a_row_for_each_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "rows.json"
    model = str(RESULTS.parent.parent / "models" / "shapes")
    monkeypatch.setattr(
        sys, "argv", ["x", "--images", "1", "--threads", "1", "--model", model, "--output", str(output)]
    )
    chunk_precision.main()
    rows = json.loads(output.read_text())["rows"]
    assert [row["chunks"] for row in rows[:: len(chunk_precision.SUPPRESSIONS)]] == [1, 4, 8]


def test_a_photograph_behind_a_scene_is_a_part_of_one_of_the_folder_s(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no photographs"):
        backgrounds.Photographs(tmp_path)
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (100, 240, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    behind = backgrounds.Photographs(tmp_path)
    parts = [behind(np.random.default_rng(seed), 64, 96) for seed in (1, 1, 2)]
    assert parts[0].shape == (64, 96, 3)
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])
    across = parts[0].mean((0, 2))
    assert (np.diff(across) >= 0).all()
    assert 20 < np.ptp(across) <= 151, "2/5 to all of the 150 columns that fit"


@pytest.mark.slow  # two forward passes and the drawing
def test_the_table_of_backgrounds_has_a_row_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (300, 200), (90, 120, 30)).save(tmp_path / "lawn.png")
    output = tmp_path / "rows.json"
    model = str(RESULTS.parent.parent / "models" / "shapes")
    words = ["--images", "2", "--threads", "1", "--photographs", str(tmp_path), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["x", "--model", model, *words])
    backgrounds.main()
    result = json.loads(output.read_text())
    assert [row["background"] for row in result["rows"]] == ["plain", "natural", "photographs"]
    assert {row["digest"] for row in result["rows"]} == {checkpoints.resolve(model).digest}
    assert (result["images"], result["photographs"]) == (2, 1)
    assert len({row["ap_seen"] for row in result["rows"]}) > 1


@pytest.mark.slow  # half a minute
def test_the_calibration_table_is_about_images_that_were_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 1.0, 8: 0.5}, images=200)
    seen, unseen = calibration_table.halves(truth)
    assert not {i["id"] for i in seen["images"]} & {i["id"] for i in unseen["images"]}
    assert len(seen["images"]) + len(unseen["images"]) == 200
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    command = [run.uri, "--annotations", str(tmp_path / "gt.json"), "--targets", "0.7,0.9"]
    assert calibration_table.main([*command, "--output", str(tmp_path / "results" / "table.json")]) == 0
    result = json.loads((tmp_path / "results" / "table.json").read_text())
    assert {"device", "versions", "commit"} <= result["machine"].keys()
    assert result["fitted_on"]["images"] + result["measured_on"]["images"] == 200
    rows = result["rows"]
    assert capsys.readouterr().out.count("\n") == 1 + len(rows)
    assert [row["asked"] for row in rows] == [0.7, 0.9] * 2
    assert all(row["precision"] >= row["asked"] - 0.01 for row in rows)
    assert rows[0]["recall"] > rows[1]["recall"] > 0.1, "more precision costs recall"
    assert rows[0]["categories_met"] == rows[0]["categories"] == 2
    assert rows[2]["categories_met"] == 1, "what holds for all together does not for the worse of them"


@pytest.mark.slow  # half a minute
def test_the_cost_of_masks_is_measured_through_the_real_labeling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "PHOTOGRAPH", (90, 120))
    command = ["--images", "2", "--boxes", "5", "--rounds", "1", "--output", str(tmp_path / "masks.json")]
    monkeypatch.setattr(sys, "argv", ["masks", *command])
    masks.main()
    result = json.loads((tmp_path / "masks.json").read_text())
    plain, masked = result["labeling"]["boxes"], result["labeling"]["boxes and masks"]
    assert plain["detections"] == masked["detections"] > 0
    assert plain["masks"] == 0 < masked["masks"]
    assert result["drawing"]["masks"] == 5
    assert result["parts"]["tiny sam"]["side"] == 128


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


def test_merging_is_measured_beside_the_plainest_way_to_do_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "QUERIES", 60)
    assert merging.main(["--rounds", "2", "--output", str(tmp_path / "merging.json")]) == 0
    result = json.loads((tmp_path / "merging.json").read_text())
    assert all(set(ms) == {"one at a time", "merge"} for ms in result["ms"].values())
    assert capsys.readouterr().out.count("\n") == 1 + len(result["ms"]) == 5


def test_without_results_there_is_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plot.main(["--results", str(tmp_path)])
    assert "no forward-*.json" in capsys.readouterr().err


def test_the_plot_takes_all_results_of_the_forward_and_is_small(tmp_path: Path) -> None:
    measured = json.loads(RESULTS.joinpath("forward-cpu.json").read_text())
    measured["machine"] |= {"device": "Test CPU", "cpus": 2}
    measured = {name: value for name, value in measured.items() if not name.endswith("chunks")} | {
        "4 chunks": measured["4 chunks"]
    }
    (tmp_path / "forward-cpu.json").write_text(json.dumps(measured))
    measured["15 chunks"] = measured.pop("4 chunks") | {"names": 1203}
    (tmp_path / "forward-cpu-15-chunks.json").write_text(json.dumps(measured))
    measured["machine"] |= {"device": "NVIDIA Test"}
    (tmp_path / "forward-gpu.json").write_text(json.dumps(measured))
    points = plot.read_points(sorted(tmp_path.glob("*.json")))
    assert {(point.panel, point.chunks) for point in points} == {
        ("Test CPU, 2 cores, 341 x 256", 4),
        ("Test CPU, 2 cores, 341 x 256", 15),
        ("NVIDIA Test, 341 x 256", 15),
    }
    assert all(point.low_s <= point.median_s <= point.high_s for point in points)
    assert [point.way for point in points if point.extrapolated] == ["a"] * 3
    assert plot.main(["--results", str(tmp_path), "--output", str(tmp_path / "docs" / "images" / "speed.png")]) == 0
    picture = Image.open(tmp_path / "docs" / "images" / "speed.png")
    assert picture.width > 2 * picture.height
    assert (tmp_path / "docs" / "images" / "speed.png").stat().st_size < 60_000


def test_a_worker_that_starts_late_costs_the_others_nothing() -> None:
    """Two perfect workers, the second ten seconds late: by their own clocks and while both work, all is ideal."""
    commits = [Commit("early", 100.0, 101.0 + unit) for unit in range(30)]
    commits += [Commit("late", 110.0, 111.0 + unit) for unit in range(30)]
    found = clocks(commits, unit_s=1.0)
    assert (found.workers, found.units) == (2, 60)
    assert (found.of_ideal, found.least, found.most) == (1.0, 1.0, 1.0)
    assert (found.stagger_s, found.tail_s) == (10.0, 10.0)
    assert (found.steady_s, found.steady_of_ideal) == (19.0, 1.0)


def test_a_pipeline_that_is_a_tenth_slower_shows_in_both_figures() -> None:
    commits = [Commit(worker, 0.0, 1.1 * (unit + 1)) for worker in ("a", "b") for unit in range(20)]
    found = clocks(commits, unit_s=1.0)
    assert found.of_ideal == pytest.approx(1 / 1.1)
    assert found.steady_of_ideal == pytest.approx(1 / 1.1)
    assert clocks(commits[:4] + commits[20:], unit_s=1.0).steady_of_ideal is None, "too short to tell"


def test_commits_are_read_from_the_runs_own_files(tmp_path: Path) -> None:
    assert read_commits(tmp_path) == []
    file = tmp_path / "labels" / "000000" / "000000.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(table_to_parquet(rows_to_table([]), {WORKER: "w", BEGUN: "12.5"}))
    assert read_commits(tmp_path) == [Commit("w", 12.5, file.stat().st_mtime)]


@pytest.mark.slow  # half a minute
def test_the_kernels_save_memory_and_no_arithmetic() -> None:
    """By counting on a device without data: a small image at the published models' size."""
    plain, fused = (predict.count(1, 224, 320, 32, fused=fused) for fused in (False, True))
    floors = [predict.floor_of(rows, predict.GPUS["H200"], 1) for rows in (plain, fused)]
    assert floors[0]["gigaflop_a_pair"] == floors[1]["gigaflop_a_pair"] > 10
    assert floors[1]["gigabytes_a_pair"] < 0.8 * floors[0]["gigabytes_a_pair"]
    assert floors[1]["kernels"] < floors[0]["kernels"]
    assert sum(floors[1]["parts"].values()) == pytest.approx(floors[1]["ms_a_pair"], abs=0.01)


@pytest.mark.slow  # half a minute
def test_images_that_share_a_forward_share_its_launches() -> None:
    alone, two = (predict.launches(images, 224, 320, 32) for images in (1, 2))
    assert alone["an image"] == alone["backbone"] + alone["pairs"] > 500
    assert two["an image"] < 0.6 * alone["an image"]


def test_annotation_files_is_measured_in_each_way(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    annotation_files.write_coco(path, images=40)
    for way in annotation_files.WAYS:
        assert annotation_files.measure(way, str(path))["mib"] < 100
    assert len(read_ground_truth(path).image) == 40 * annotation_files.OBJECTS_AN_IMAGE
    ways = json.loads((RESULTS / "annotation-files.json").read_text())["ways"]
    assert set(ways) == set(annotation_files.WAYS)
    assert ways["read_ground_truth"]["mib"] < ways["json.load"]["mib"] / 10

"""`labeler sample`, tasks of a sample, and the precision that marks of it show: from the command line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs.erasure.excluded import Excluded, write_excluded
from tests.label_runs import row, write_run
from tests.red_boxes import red_run
from tests.sample_parts import Known, all_boxes, refused, sample, tasks_of


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return Known(tmp_path_factory.mktemp("known"))


def test_an_estimate_holds_the_truth_for_the_run_and_its_categories(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = sample(known.run, tmp_path / "s.json", "--strategy", "estimate", "--n", "300")
    drawn = all_boxes(values)
    assert len(drawn) == 300
    assert values["population"]["boxes"] == sum(score >= np.float32(0.3) for score in known.score.values())
    weights = [1 / box["inclusion"] for box in drawn]
    assert sum(weights) == pytest.approx(values["population"]["boxes"])
    for by_digest in (False, True):
        marks = known.marks(tmp_path / "s.json", by_digest=by_digest)
        out = tmp_path / f"{by_digest}.json"
        command = ["evaluate", known.run.uri, "--sample", str(tmp_path / "s.json"), "--marks", str(marks)]
        capsys.readouterr()
        assert main([*command, "--output", str(out)]) == 0
        shown = capsys.readouterr().out
        found = json.loads(out.read_text())
        total = found["precision"]
        assert total["low"] <= known.precision(0.3) <= total["high"]
        assert total["judged"] == 300
        assert total["worth"] > 300
        assert f"{total['value']:.3f} ({total['low']:.3f}-{total['high']:.3f})" in shown
        assert set(found["categories"]) == {"3", "8"}
        for id_, one in found["categories"].items():
            assert one["low"] <= known.precision(0.3, int(id_)) <= one["high"]
        assert "cat" in shown
        assert main([*command, "--output", str(out)]) == 0, "an estimate replaces an estimate"


def test_a_pilot_is_enlarged_where_its_marks_vary_most(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, more = tmp_path / "few.json", tmp_path / "more.json"
    pilot = sample(known.run, few, "--strategy", "estimate", "--n", "100", "--seed", "4", "--threshold", "0.2")
    marks = known.marks(few)
    whole = sample(known.run, more, "--strategy", "estimate", "--continue", str(few), "--pilot", str(marks))
    key = [(box["index"], box["box"]) for box in all_boxes(whole)]
    assert len(key) == len(set(key)) == 300
    assert {(b["index"], b["box"]) for b in all_boxes(pilot)} == {
        (b["index"], b["box"]) for b in all_boxes(whole) if b["pilot"]
    }
    assert whole["population"] == pilot["population"]
    assert whole["seed"] == 4
    drawn = [stratum["drawn"] for stratum in whole["strata"]]
    assert drawn[0] > 1.2 * drawn[-1] > 20
    rest = known.marks(more, every=2)
    command = ["evaluate", known.run.uri, "--sample", str(more), "--marks"]
    assert main([*command, str(rest), "--marks", str(marks)]) == 0
    text = capsys.readouterr().out
    judged = int(text.split("judged")[1].split()[0])
    assert 150 < judged < 300
    from_elsewhere = sample(known.run, tmp_path / "e.json", "--strategy", "estimate", "--pilot", str(marks))
    assert not any(box["pilot"] for box in all_boxes(from_elsewhere))
    assert from_elsewhere["strata"][0]["drawn"] > from_elsewhere["strata"][-1]["drawn"]
    assert main(["sample", known.run.uri, "--strategy", "estimate", "--continue", str(few), "--pilot", str(marks),
                 "--output", str(more)]) == 0, "the same again"  # fmt: skip


def test_a_mixed_sample_has_a_part_that_counts(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = sample(known.run, tmp_path / "s.json", "--n", "200")
    designs = [box["design"] for box in all_boxes(values)]
    counts = {name: designs.count(name) for name in sorted(set(designs))}
    assert counts == {"estimate": 60, "margin": 80, "rare": 40, "suspicious": 20}
    assert len({(box["index"], box["box"]) for box in all_boxes(values)}) == len(designs) == 200
    assert all((box["inclusion"] is not None) == (box["design"] == "estimate") for box in all_boxes(values))
    marks = known.marks(tmp_path / "s.json")
    capsys.readouterr()
    assert main(["evaluate", known.run.uri, "--sample", str(tmp_path / "s.json"), "--marks", str(marks)]) == 0
    text = capsys.readouterr().out
    assert "60 of 60 boxes drawn" in text
    assert "140 boxes of the sample were chosen" in text


@pytest.mark.parametrize("strategy", ["margin", "rare", "suspicious"])
def test_no_precision_comes_from_boxes_that_were_chosen(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    path = tmp_path / "s.json"
    values = sample(known.run, path, "--strategy", strategy, "--n", "50")
    boxes = all_boxes(values)
    assert 0 < len(boxes) <= 50
    if strategy == "margin":
        assert max(box["score"] for box in boxes) < 0.4
    line = refused(capsys, "evaluate", known.run.uri, "--sample", str(path), "--marks", str(known.marks(path)))
    assert f"chosen by {strategy}" in line


@pytest.mark.parametrize(("n", "strategy"), [(1, "estimate"), (4, "estimate"), (12, "estimate"), (10, "mixed")])
def test_a_small_sample_has_fewer_strata_and_a_box_of_each(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str], n: int, strategy: str
) -> None:
    path = tmp_path / "sample.json"
    assert main(["sample", known.run.uri, "--strategy", strategy, "--n", str(n), "--output", str(path)]) == 0
    strata = json.loads(path.read_text())["strata"]
    assert min(stratum["drawn"] for stratum in strata) >= 1
    assert sum(stratum["boxes"] for stratum in strata) == json.loads(path.read_text())["population"]["boxes"]
    evaluate = ["evaluate", known.run.uri, "--sample", str(path), "--marks", str(known.marks(path))]
    assert main(evaluate) == 0
    if strategy == "estimate":  # it is continued by a sample that alone would have more strata
        more = ["--pilot", str(known.marks(path)), "--continue", str(path), "--n", "60"]
        output = ["--output", str(tmp_path / "more.json")]
        assert main(["sample", known.run.uri, "--strategy", "estimate", *more, *output]) == 0
        assert len(json.loads((tmp_path / "more.json").read_text())["strata"]) == len(strata)


def test_a_stratum_of_which_no_box_was_drawn_is_not_passed_over(
    known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sample.json"
    assert main(["sample", known.run.uri, "--strategy", "estimate", "--n", "50", "--output", str(path)]) == 0
    values = json.loads(path.read_text())
    for image in values["images"]:
        image["boxes"] = [box for box in image["boxes"] if box["stratum"] != 0]
    values["images"] = [image for image in values["images"] if image["boxes"]]
    values["strata"][0]["drawn"] = 0  # as earlier versions drew few boxes
    path.write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["evaluate", known.run.uri, "--sample", str(path), "--marks", str(known.marks(path))]) == 2
    assert "has no box of stratum 0" in capsys.readouterr().err


def test_the_same_command_draws_the_same_and_another_seed_other_boxes(known: Known, tmp_path: Path) -> None:
    for strategy in ("random", "mixed"):
        first = sample(known.run, tmp_path / "a.json", "--strategy", strategy, "--force")
        again = sample(known.run, tmp_path / "b.json", "--strategy", strategy, "--force")
        other = sample(known.run, tmp_path / "c.json", "--strategy", strategy, "--seed", "1", "--force")
        assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
        assert first["images"] == again["images"] != other["images"]


def test_boxes_on_which_another_run_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = np.array([[10, 10, 50, 50], [100, 100, 160, 160], [200, 200, 260, 260]], np.float32)
    ours = Detections.of(boxes, [0.9, 0.8, 0.7], [3, 8, 3])
    renamed = Detections.of(boxes, [0.9, 0.8, 0.7], [3, 3, 3])
    lost = Detections.of(boxes[:2], [0.9, 0.8], [3, 8])
    low = Detections.of([[300, 300, 340, 340], *boxes], [0.1, 0.9, 0.8, 0.7], [3, 3, 8, 3])
    first = write_run(tmp_path / "a", {(0, 0): [row(0, ours), row(1, low), row(2, ours)]})
    second = write_run(tmp_path / "b", {(0, 0): [row(2, lost), row(1, renamed), row(0, ours)]})
    values = sample(first, tmp_path / "s.json", "--strategy", "disagree", "--against", second.uri)
    found = {(box["index"], box["box"], box["reason"]) for box in all_boxes(values)}
    assert found == {(1, 2, "named otherwise"), (2, 2, "not found")}
    other = write_run(tmp_path / "c", {(0, 0): [row(0, ours, digest="ab" * 16)]})
    line = refused(capsys, "sample", first.uri, "--strategy", "disagree", "--against", other.uri)
    assert "no labeled image in common" in line


def test_near_copies_are_shown_once_but_drawn_like_any_other(tmp_path: Path) -> None:
    box = Detections.of([[10, 10, 50, 50]], [0.35], [3])
    codes = [0b1111_0000, 0b1111_0001, 7 << 40, -1, -2]
    run = write_run(tmp_path / "run", {(0, 0): [row(i, box, phash=code) for i, code in enumerate(codes)]})
    chosen = all_boxes(sample(run, tmp_path / "m.json", "--strategy", "margin"))
    assert len(chosen) == 3
    assert len(all_boxes(sample(run, tmp_path / "r.json", "--strategy", "random"))) == 5


def test_a_sample_becomes_tasks_that_say_how_each_box_was_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = red_run(tmp_path, images=9)
    path = tmp_path / "s.json"
    values = sample(run, path, "--strategy", "estimate", "--n", "6", "--threshold", "0.4")
    wanted = {f"{image['shard_id']}/{image['index']:06d}": image for image in values["images"]}
    tasks = json.loads((tasks_of(run, tmp_path / "ls", path, "label-studio") / "tasks-00000.json").read_text())
    assert [task["data"]["labeler_row"] for task in tasks] == sorted(wanted)
    for task in tasks:
        data, image = task["data"], wanted[task["data"]["labeler_row"]]
        assert data["labeler_strategy"] == "estimate"
        assert data["labeler_boxes"] == [
            {"box": f"{data['labeler_row']}/{box['box']}"} | {k: box[k] for k in ("design", "stratum", "inclusion")}
            for box in image["boxes"]
        ]
        regions = {r["id"]: r for r in task["predictions"][0]["result"]}
        for box in data["labeler_boxes"]:
            (text,) = regions[box["box"].replace("/", "-")]["meta"]["text"]
            assert "judge this box (estimate, stratum" in text
    cvat = tasks_of(run, tmp_path / "cvat", path, "cvat")
    root = ElementTree.parse(cvat / "task-00000" / "annotations.xml")
    drawn = [node.text for node in root.iterfind(".//box/attribute[@name='labeler_design']")]
    assert len(drawn) == 6
    assert all(text and text.startswith("estimate, stratum") for text in drawn)
    assert json.loads((cvat / "labels.json").read_text())[0]["attributes"][2]["name"] == "labeler_design"
    x_files = list(tasks_of(run, tmp_path / "xal", path, "x-anylabeling").rglob("*.json"))
    assert sorted(json.loads(p.read_text()).get("labeler_row") for p in x_files if ".labeler" not in p.parts) == [
        *sorted(wanted)
    ]
    plain = tmp_path / "plain"
    assert main(["export", run.uri, "--to", "cvat", "--output", str(plain)]) == 0
    assert "labeler_design" not in (plain / "labels.json").read_text()
    capsys.readouterr()
    assert main(["export", run.uri, "--to", "cvat", "--sample", str(path), "--output", str(cvat)]) == 0
    line = refused(capsys, "export", run.uri, "--to", "cvat", "--output", str(cvat))
    assert "another" in line, "a folder of a sample's tasks is not continued with other images"


def test_boxes_of_the_pilot_are_not_handed_out_again(tmp_path: Path) -> None:
    run = red_run(tmp_path, images=9)
    few, more, marks = tmp_path / "few.json", tmp_path / "more.json", tmp_path / "marks.json"
    pilot = sample(run, few, "--strategy", "estimate", "--n", "5", "--threshold", "0.4")
    found = [
        {"image": f"{image['shard_id']}/{image['index']}", "right": True}
        | {key: box[key] for key in ("box", "category_id", "score")}
        for image in pilot["images"]
        for box in image["boxes"]
    ]
    marks.write_text(json.dumps({"run": run.manifest.run_id, "marks": found}))
    whole = sample(run, more, "--strategy", "estimate", "--n", "9", "--continue", str(few), "--pilot", str(marks))
    assert len(all_boxes(whole)) == 9
    tasks = json.loads((tasks_of(run, tmp_path / "ls", more, "label-studio") / "tasks-00000.json").read_text())
    assert sum(len(task["data"]["labeler_boxes"]) for task in tasks) == 4
    assert not {t["data"]["labeler_row"] for t in tasks} & {
        f"{image['shard_id']}/{image['index']:06d}" for image in pilot["images"]
    }


def test_forgotten_images_are_not_sampled_and_leave_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = red_run(tmp_path, images=9)
    path = tmp_path / "s.json"
    values = sample(run, path, "--strategy", "random", "--threshold", "0.4")
    gone = values["images"][0]
    write_excluded(run, Excluded.of([gone["digest"]]))
    tasks = json.loads((tasks_of(run, tmp_path / "ls", path, "label-studio") / "tasks-00000.json").read_text())
    assert len(tasks) == len(values["images"]) - 1
    assert main(["sample", run.uri, "--threshold", "0.4"]) == 0  # into the run's folder
    names = tmp_path / "names.txt"
    names.write_text(f"{gone['digest']}\n")
    capsys.readouterr()
    assert main(["forget", run.uri, "--keys", str(names)]) == 0
    said = capsys.readouterr().out
    assert f"may still show removed images, re-create it: {run.uri}/sample.json" in said
    assert f"may still show removed images, re-create it: {path}" in said
    again = sample(run, tmp_path / "again.json", "--strategy", "random", "--threshold", "0.4")
    assert gone not in again["images"]
    assert len(again["images"]) == len(values["images"]) - 1

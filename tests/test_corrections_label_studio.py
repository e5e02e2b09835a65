"""Label Studio, out and back: unedited equal to the bit, each kind of edit, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.exports.label_studio_masks import decode, encode
from labeler.labels.masks import Mask
from labeler.runs import Run
from tests.correction_parts import (
    BOXES,
    correct,
    export,
    made_run,
    move,
    rename,
    reviewed_tasks,
    rows,
    sources,
    tasks_of,
)
from tests.correction_parts import submitted as submitted_of
from tests.mask_parts import Filling
from tests.red_boxes import red_run


def test_what_comes_back_unedited_is_the_run_to_the_bit_and_all_accepted(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"))), "--from", "label-studio")
    for before, after in zip(rows(run), rows(corrected), strict=True):
        assert np.array_equal(after.detections.boxes, before.detections.boxes)
        assert np.array_equal(after.detections.category_ids, before.detections.category_ids)
        assert np.array_equal(after.detections.more["model_score"], before.detections.scores)
        assert np.array_equal(after.detections.chunks, before.detections.chunks)
        assert (after.detections.scores == 1).all()
        assert set(after.detections.more["source"]) <= {"accepted"}
        assert (after.review, after.status) == ("complete", before.status)
    assert corrected.parent is not None
    assert corrected.parent.manifest.run_id == run.manifest.run_id


def edit(number: int, annotation: dict[str, Any]) -> None:
    regions = annotation["result"]
    if number == 0:  # one moved, one renamed, one removed, one drawn
        move(regions[0])
        rename(regions[1], "cat")
        drawn = json.loads(json.dumps(regions[0]))
        drawn |= {"id": "xYz12", "origin": "manual"}
        drawn["value"] |= {"x": 70.0, "y": 2.0, "width": 10.0, "height": 10.0, "rectanglelabels": ["猫"]}
        annotation["result"] = [drawn, regions[1], regions[0]]
    if number == 1:
        move(regions[0])
        rename(regions[0], "dog")
    if number == 3:
        annotation["result"] = []


@pytest.mark.parametrize("without_ids", [False, True])
def test_each_kind_of_edit_is_known_with_ids_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], without_ids: bool
) -> None:
    run = made_run(tmp_path)

    def change(number: int, annotation: dict[str, Any]) -> None:
        edit(number, annotation)
        for place, region in enumerate(annotation["result"]):
            if without_ids:
                region["id"] = f"r{place}"
            elif region["id"].startswith("0"):
                region["id"] += "#17"  # as the editor copies predictions

    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"), change)), "--from", "label-studio")
    first, second, third, fourth = rows(corrected)
    assert list(first.detections.more["source"]) == ["moved", "renamed", "added"]
    assert first.detections.category_ids.tolist() == [1, 1, 4]
    assert np.allclose(first.detections.boxes[0], [10.123456 + 0.04 * 96, 5.5, 40.75 + 0.04 * 96, 30.0001], atol=0.01)
    assert np.array_equal(first.detections.boxes[1], BOXES[0].boxes[1]), "a renamed box keeps its sides to the bit"
    assert first.detections.chunks.tolist() == [0, 0, -1]
    assert first.detections.more["model_score"][:2].tolist() == BOXES[0].scores[:2].tolist()
    assert np.isnan(first.detections.more["model_score"][2])
    if not without_ids:
        assert list(second.detections.more["source"]) == ["moved+renamed", "accepted"]
    assert (third.status, third.review) == ("empty", "complete")
    assert (fourth.status, fourth.review, len(fourth.detections)) == ("empty", "complete", 0)
    printed = capsys.readouterr().out
    assert "4 reviewed, 0 with single boxes reviewed, 0 not reviewed" in printed
    counts = json.loads((Path(corrected.uri) / "corrections.json").read_text())
    assert counts["boxes"]["3"]["removed"] == counts["boxes"]["4"]["removed"] == 1
    assert counts["boxes"]["4"]["added"] == 1


def test_reviewed_and_empty_is_not_unreviewed_and_skipped_is_neither(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    out = export(run, "label-studio")

    def change(number: int, annotation: dict[str, Any]) -> None:
        annotation["was_cancelled"] = number == 1

    corrected = correct(run, str(reviewed_tasks(out, change, only=[1, 2])), "--from", "label-studio")
    assert [row.review for row in rows(corrected)] == [None, None, "complete", None]
    for before, after in list(zip(rows(run), rows(corrected), strict=True))[:2]:
        assert np.array_equal(after.detections.scores, before.detections.scores)
        assert set(after.detections.more["source"]) == {None}
    counts = json.loads((Path(corrected.uri) / "corrections.json").read_text())
    assert counts["images"] == {"complete": 1, "forgotten": 0, "skipped": 1, "unreviewed": 2}


def test_boxes_that_the_export_left_out_go_but_count_as_not_shown(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    out = export(run, "label-studio", "--threshold", "0.6")
    corrected = correct(run, str(reviewed_tasks(out)), "--from", "label-studio")
    assert [len(row.detections) for row in rows(corrected)] == [2, 1, 0, 1]
    counts = json.loads((Path(corrected.uri) / "corrections.json").read_text())
    assert counts["unshown"] == 2
    assert sum(each["removed"] for each in counts["boxes"].values()) == 0


NAMES_IN_TOOLS = {
    "uploaded": lambda data: "/data/upload/1/1a2b3c4d-" + data["labeler_row"].replace("/", "-") + ".png",
    "copy": lambda data: f"s3://bucket/some/images/{data['labeler_row']}.png",
    "own": lambda data: f"/data/local-files/?d=in/{int(data['labeler_row'][-6:]):03d}.png",
    "own uploaded": lambda data: f"/data/upload/9/99aabbcc-{int(data['labeler_row'][-6:]):03d}.png",
}


@pytest.mark.parametrize("kind", NAMES_IN_TOOLS)
def test_images_are_found_by_the_names_that_tools_give_them(tmp_path: Path, kind: str) -> None:
    run = made_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"))
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["data"] = {"image": NAMES_IN_TOOLS[kind](task["data"])}
        for region in task["annotations"][0]["result"]:
            region["id"] = "new" + region["id"][-1]
    path.write_text(json.dumps(tasks))
    corrected = correct(run, str(path), "--from", "label-studio")
    assert [row.review for row in rows(corrected)] == ["complete"] * 4
    assert {source for _, each in sources(corrected) for source in each} == {"accepted"}


def test_masks_come_back_as_they_were_or_as_they_were_painted(tmp_path: Path) -> None:
    run = red_run(tmp_path, shards=1, images=3, segmenter=Filling())

    def change(number: int, annotation: dict[str, Any]) -> None:
        box, mask = annotation["result"][:2]
        pixels = decode(mask["value"]["rle"], box["original_height"], box["original_width"]).decode()
        if number == 1:  # painted, and the box as it was
            pixels[:3] = 1
            painted = Mask.of_window(pixels.astype(bool).T, 0, 0, height=pixels.shape[0], width=pixels.shape[1])
            mask["value"]["rle"] = encode(painted)
        if number == 2:  # moved, and its mask removed
            move(box)
            annotation["result"].remove(mask)

    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"), change)), "--from", "label-studio")
    before, after = rows(run), rows(corrected)
    for place in (0, 1):
        assert after[0].detections.mask_of(place) == before[0].detections.mask_of(place)
    painted, original = after[1].detections.mask_of(0), before[1].detections.mask_of(0)
    assert painted is not None
    assert original is not None
    assert painted.decode()[:3].all()
    assert (painted.decode()[3:] == original.decode()[3:]).all()
    assert after[1].detections.more["source"][0] == "accepted"
    assert after[2].detections.more["source"][0] == "moved"
    assert after[2].detections.mask_of(0) is None


def test_a_mask_alone_is_a_box_around_it(tmp_path: Path) -> None:
    run = red_run(tmp_path, shards=1, images=1, segmenter=Filling())

    def change(number: int, annotation: dict[str, Any]) -> None:
        annotation["result"] = [region for region in annotation["result"] if region["type"] == "brushlabels"][:1]

    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"), change)), "--from", "label-studio")
    (row,), (before,) = rows(corrected), rows(run)
    assert row.detections.boxes.tolist() == before.detections.boxes[:1].tolist()
    assert list(row.detections.more["source"]) == ["accepted"]


@pytest.mark.parametrize("rle", [None, [1], "text", [0, 0, 0, 0, 57, 27], [0, 0, 96, 0, 57, 27, 255], [True] * 40])
def test_a_damaged_mask_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], rle: Any) -> None:
    run = red_run(tmp_path, shards=1, images=1, segmenter=Filling())

    def change(number: int, annotation: dict[str, Any]) -> None:
        annotation["result"][1]["value"]["rle"] = rle

    path = reviewed_tasks(export(run, "label-studio"), change)
    assert "mask cannot be read" in refusal(run, path, capsys)


def test_literal_runs_of_a_brush_are_read() -> None:
    """Label Studio's editor writes values that differ one after the other as they are; exports never do."""
    alphas = [255, 0, 255, 255, 0, 0]
    values = [value for alpha in alphas for value in (9, 8, 7, alpha)]
    bits = f"{len(values):032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + f"0{2:02b}{len(values) - 1:08b}"
    bits += "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    mask = decode(list(int(bits, 2).to_bytes(len(bits) // 8, "big")), 2, 3)
    assert mask.decode().reshape(-1).tolist() == [1, 0, 1, 1, 0, 0]


def refusal(run: Run, path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line of a command that is refused, and its problems."""
    capsys.readouterr()
    correct(run, str(path), "--from", "label-studio", *options, code=2)
    said = capsys.readouterr().err
    assert said.startswith("labeler: "), said
    return said


def of_region(**value: Any) -> Callable[[dict[str, Any]], None]:
    def change(task: dict[str, Any]) -> None:
        task["annotations"][0]["result"][0]["value"] |= value

    return change


def second_annotator(task: dict[str, Any]) -> None:
    task["annotations"].append(submitted_of(task, number=2, annotator=7))
    task["annotations"][1]["result"] = []


BAD = {
    "of run 0123": lambda task: task["data"].update(labeler_run="0123"),
    "2 annotations, by annotators 1, 7; choose": second_annotator,
    "a rotated box; draw an upright box": of_region(rotation=30),
    "reaches beyond the image (x 10, y": of_region(x=10, width=120),
    "x -5": of_region(x=-5),
    "must be numbers": of_region(x=float("nan")),
    "a polygon needs": lambda task: task["annotations"][0]["result"][0].update(
        type="polygonlabels", value={"points": [], "polygonlabels": ["cat"]}
    ),
    "ellipselabels is not a box": lambda task: task["annotations"][0]["result"][0].update(
        type="ellipselabels", value={"x": 1, "y": 1, "ellipselabels": ["cat"]}
    ),
    "needs one label of a control for boxes": of_region(rectanglelabels=["cat", "dog"]),
    '"kat" (task 0 (000000/000000)) is not a category of the run; did you mean cat?': of_region(
        rectanglelabels=["kat"]
    ),
    "has no area in the image": of_region(x=10, width=0),
    "96 x 64 in the run": lambda task: [
        region.update(original_width=50) for region in task["annotations"][0]["result"]
    ],
    "was turned in the tool": lambda task: task["annotations"][0]["result"][0].update(image_rotation=90),
    "its bytes are not those": lambda task: task["data"].update(labeler_digest="0" * 32),
    "is not an image of the run": lambda task: task["data"].update(labeler_row="000000/000099"),
    "are the same image of the run": lambda task: task["data"].update(
        labeler_row="000000/000001", labeler_digest=""
    ),
    "`result` must be a list": lambda task: task["annotations"][0].update(result=None),
    "`annotations` must be a list": lambda task: task.update(annotations=[3]),
}  # fmt: skip


@pytest.mark.parametrize("says", BAD)
def test_what_cannot_be_taken_over_is_one_line_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], says: str
) -> None:
    run = made_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"))
    tasks = json.loads(path.read_text())
    change: Callable[[dict[str, Any]], Any] = BAD[says]  # type: ignore[assignment]
    change(tasks[0])
    path.write_text(json.dumps(tasks))
    said = refusal(run, path, capsys)
    assert says in said
    assert len(said.splitlines()) == 1


def test_all_problems_are_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)

    def change(number: int, annotation: dict[str, Any]) -> None:
        for region in annotation["result"]:
            region["value"]["rotation"] = 10

    said = refusal(run, reviewed_tasks(export(run, "label-studio"), change), capsys)
    assert said.splitlines()[0].endswith("6 problems")
    assert len(said.splitlines()) == 7


def test_of_several_annotations_one_is_chosen_by_person_or_time(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"))
    tasks = json.loads(path.read_text())
    second_annotator(tasks[0])
    path.write_text(json.dumps(tasks))
    counts = {}
    for name, options in {
        "newest": ["--several", "newest"], "one": ["--annotator", "1"], "seven": ["--annotator", "7"]
    }.items():  # fmt: skip
        output = ["--output", str(tmp_path / name)]
        from labeler.cli import main
        from labeler.runs import require_run

        assert main(["correct", run.uri, str(path), "--from", "label-studio", *options, *output]) == 0
        found = rows(require_run(str(tmp_path / name)))
        counts[name] = [(row.review, len(row.detections)) for row in found[:2]]
    assert counts["newest"] == [("complete", 0), ("complete", 2)]
    assert counts["one"] == [("complete", 3), ("complete", 2)]
    assert counts["seven"] == [("complete", 0), (None, 2)]
    tasks[0]["annotations"][0]["ground_truth"] = True
    path.write_text(json.dumps(tasks))
    assert len(rows(correct(run, str(path), "--from", "label-studio"))[0].detections) == 3


def test_rotated_boxes_become_the_box_around_them_if_asked(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def change(number: int, annotation: dict[str, Any]) -> None:
        for region in annotation["result"]:
            region["value"] |= {"x": 50, "y": 50, "width": 20, "height": 10, "rotation": 90}

    path = reviewed_tasks(export(run, "label-studio"), change, only=[3])
    (box,) = rows(correct(run, str(path), "--from", "label-studio", "--envelopes"))[3].detections.boxes
    width, height = 0.2 * 96, 0.1 * 64
    assert np.allclose(box, [48 - height, 32, 48, 32 + width], atol=0.01), "turned around its upper left corner"


FILES = {
    "JSON-MIN": '[{"image": "a.png", "id": 1, "label": [], "annotator": 1, "annotation_id": 3}]',
    "not a list of tasks": '{"images": [], "annotations": [], "categories": []}',
    "not JSON": "[{",
    "nested more than": "[" * 100_000,
    "no `data`": "[3]",
    "no reviewed image": "[]",
}


@pytest.mark.parametrize("says", FILES)
def test_other_files_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], says: str) -> None:
    run = made_run(tmp_path)
    (tmp_path / "file.json").write_text(FILES[says])
    said = refusal(run, tmp_path / "file.json", capsys)
    assert says in said
    assert len(said.splitlines()) == 1


def test_a_task_as_long_as_a_file_is_refused_before_it_fills_the_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.corrections import label_studio

    monkeypatch.setattr(label_studio, "MAX_ELEMENT_BYTES", 1 << 20)
    run = made_run(tmp_path)
    (tmp_path / "file.json").write_text('[{"data": "' + "a" * (3 << 20) + '"}]')
    assert "a value of more than 1 MiB" in refusal(run, tmp_path / "file.json", capsys)


def test_tasks_say_which_boxes_went_out(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    tasks = tasks_of(export(run, "label-studio", "--threshold", "0.6"))
    assert [task["data"]["labeler_shown"] for task in tasks] == ["0 1", "0", "", "0"]

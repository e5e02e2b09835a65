"""Corrected files of samples: only the boxes that were asked about are reviewed; and lists of names, and copies."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import Run, require_run
from tests.correction_parts import (
    BOXES,
    checked,
    correct,
    cvat_back,
    export,
    made_run,
    move,
    rename,
    reviewed_tasks,
    rows,
    sources,
    tasks_of,
)
from tests.label_runs import row as labeled_row
from tests.label_runs import write_run


def handed_out(run: Run, form: str, *asked: tuple[int, int], options: Sequence[str] = ()) -> Path:
    """The tasks of a sample of these (image, box)."""
    sample = Path(run.uri) / "sample.json"
    if not sample.exists():
        assert main(["sample", run.uri, "--strategy", "random", "--n", "20", "--suppress", "off"]) == 0
    values = json.loads(sample.read_text())
    for image in values["images"]:
        image["boxes"] = [box for box in image["boxes"] if (image["index"], box["box"]) in asked]
    values["images"] = [image for image in values["images"] if image["boxes"]]
    stratum = values["strata"][0]
    stratum["drawn"] = len(asked)
    for image in values["images"]:
        for box in image["boxes"]:
            box["inclusion"] = len(asked) / stratum["boxes"]
    chosen, out = Path(run.uri).parent / f"{form}.json", Path(run.uri).parent / f"out-{form}"
    chosen.write_text(json.dumps(values))
    assert main(["export", run.uri, "--to", form, "--sample", str(chosen), "--output", str(out), *options]) == 0
    return out


@pytest.mark.parametrize("form", ["label-studio", "x-anylabeling"])
def test_a_task_of_a_sample_is_a_review_of_its_boxes_and_of_no_image(tmp_path: Path, form: str) -> None:
    run = made_run(tmp_path)
    out = handed_out(run, form, (0, 1), (1, 0))
    if form == "label-studio":

        def remove(number: int, annotation: dict[str, Any]) -> None:
            if number == 1:
                annotation["result"] = annotation["result"][1:]

        path = reviewed_tasks(out, remove)
    else:

        def drop(number: int, document: dict[str, Any]) -> None:
            if number == 1:
                document["shapes"] = document["shapes"][1:]

        path = checked(out, drop)
    first, second, third, fourth = rows(correct(run, str(path), "--from", form))
    assert (first.review, list(first.detections.more["source"])) == ("boxes", ["accepted", None, None])
    assert sorted(first.detections.boxes.tolist()) == sorted(BOXES[0].boxes.tolist())
    assert first.detections.boxes[0].tolist() == BOXES[0].boxes[1].tolist()
    assert (second.review, list(second.detections.more["source"])) == ("boxes", [None])
    assert second.detections.boxes.tolist() == BOXES[1].boxes[1:].tolist()
    assert [third.review, fourth.review] == [None, None]


def test_what_a_reviewer_changed_beside_the_boxes_of_a_sample_counts_and_nothing_else(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def change(number: int, annotation: dict[str, Any]) -> None:
        rename(annotation["result"][1], "cat")
        move(annotation["result"][0])

    path = reviewed_tasks(handed_out(run, "label-studio", (0, 1)), change)
    assert sources(correct(run, str(path), "--from", "label-studio"))[0] == ("boxes", ["moved", "renamed", None])


def test_crops_of_a_sample_are_a_review_of_its_boxes_though_others_never_went_out(tmp_path: Path) -> None:
    crowd = [[x, y, x + 6, y + 7] for x in (2, 24, 60, 84) for y in (3, 30, 50)]
    scores = np.linspace(0.9, 0.4, 12)
    run = made_run(tmp_path, [Detections.of(crowd, scores, [1] * 12)])
    out = handed_out(run, "label-studio", (0, 0), (0, 11), options=("--boxes-per-task", "4"))
    tasks = tasks_of(out)
    assert len(tasks) < tasks[0]["data"]["labeler_crop"]["count"]
    (row,) = rows(correct(run, str(reviewed_tasks(out)), "--from", "label-studio"))
    assert row.review == "boxes"
    assert list(row.detections.more["source"]) == ["accepted"] * 2 + [None] * 10
    assert row.detections.boxes[:2].tolist() == [crowd[0], crowd[11]]
    assert sorted(row.detections.boxes.tolist()) == sorted(crowd)


def drop(image: ElementTree.Element, at: int) -> None:
    image.remove(list(image.iter("box"))[at])


def task_of(image: ElementTree.Element) -> ElementTree.Element:
    (tag,) = image.iter("tag")
    return tag


def test_tasks_of_a_sample_come_back_from_cvat(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    out = handed_out(run, "cvat", (0, 1), (1, 0))
    labels = json.loads((out / "labels.json").read_text())
    assert [label["type"] for label in labels] == ["rectangle"] * 4 + ["tag"]
    path = cvat_back(out, lambda number, image: drop(image, 0) if number == 1 else None)
    first, second, third, fourth = rows(correct(run, str(path), "--from", "cvat", "--reviewed", "all"))
    assert (first.review, list(first.detections.more["source"])) == ("boxes", ["accepted", None, None])
    assert (second.review, list(second.detections.more["source"])) == ("boxes", [None])
    assert second.detections.boxes.tolist() == BOXES[1].boxes[1:].tolist()
    assert [third.review, fourth.review] == [None, None]


def test_a_sample_of_more_boxes_than_cvat_can_list_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [[x, y, x + 3, y + 3] for x in range(1, 93) for y in range(1, 13)]
    crowd = Detections.of(many, np.linspace(0.9, 0.4, len(many)), [1] * len(many))
    run, out = made_run(tmp_path, [BOXES[0], crowd]), tmp_path / "out"
    path = tmp_path / "sample.json"
    sample = ["sample", run.uri, "--strategy", "random", "--n", "2000", "--suppress", "off", "--output", str(path)]
    assert main(sample) == 0
    command = [
        "export",
        run.uri,
        "--to",
        "cvat",
        "--sample",
        str(path),
        "--output",
        str(out),
        "--images-per-shard",
        "1",
    ]
    capsys.readouterr()
    assert main(command) == 2
    assert "image 000000/000001 were drawn for the sample than CVAT can list" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--boxes-per-task", "300"]) == 0


def crowd_run(folder: Path, images: int = 1) -> Run:
    crowd = [[x, y, x + 6, y + 7] for x in (2, 24, 60, 84) for y in (3, 30, 50)]
    return made_run(folder, [Detections.of(crowd, np.linspace(0.9, 0.4, 12), [1] * 12)] * images)


def test_crops_come_back_from_cvat_as_one_image(tmp_path: Path) -> None:
    run = crowd_run(tmp_path, images=2)
    out = export(run, "cvat", "--boxes-per-task", "4")

    def change(number: int, image: ElementTree.Element) -> None:
        if number == 0:
            drop(image, 1)

    path = cvat_back(out, change)
    first, second = rows(correct(run, str(path), "--from", "cvat", "--reviewed", "all"))
    assert (first.review, len(first.detections)) == ("complete", 11)
    assert set(first.detections.more["source"]) == {"accepted"}
    stored = {tuple(box) for box in rows(run)[0].detections.boxes.tolist()}
    assert {tuple(box) for box in first.detections.boxes.tolist()} < stored, "to the bit"
    assert (second.review, len(second.detections)) == ("complete", 12)


def test_an_image_of_which_a_crop_was_not_reviewed_is_not_reviewed(tmp_path: Path) -> None:
    run = crowd_run(tmp_path, images=2)
    out = export(run, "cvat", "--boxes-per-task", "4")
    path = cvat_back(out)
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps([{"id": 1, "start_frame": 1, "stop_frame": 99, "state": "completed"}]))
    found = rows(correct(run, str(path), "--from", "cvat", "--jobs", str(jobs)))
    assert [row.review for row in found] == [None, "complete"]


LOST = {
    "does not say of which part": lambda _, image: image.remove(task_of(image)),
    "its tag `labeler_task` is that of image 000000/000001": lambda _, image: setattr(
        task_of(image).find("attribute[@name='labeler_row']"), "text", "000000/000001"),
    "`labeler_crop` of its tag is not JSON": lambda _, image: setattr(
        task_of(image).find("attribute[@name='labeler_crop']"), "text", "{"),
    "labeler_crop has number, count, window, core": lambda _, image: setattr(
        task_of(image).find("attribute[@name='labeler_crop']"), "text", "{}"),
}  # fmt: skip


@pytest.mark.parametrize("problem", LOST)
def test_a_crop_whose_tag_was_lost_or_changed_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    run = crowd_run(tmp_path)
    path = cvat_back(export(run, "cvat", "--boxes-per-task", "6"), LOST[problem])
    capsys.readouterr()
    correct(run, str(path), "--from", "cvat", "--reviewed", "all", code=2)
    assert problem in capsys.readouterr().err


def test_an_image_of_a_sample_without_its_tag_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)
    path = cvat_back(handed_out(run, "cvat", (0, 1)), lambda _, image: image.remove(task_of(image)))
    capsys.readouterr()
    correct(run, str(path), "--from", "cvat", "--reviewed", "all", code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not say which boxes were asked about; give the image its tag `labeler_task` again" in line


def test_attributes_of_a_tag_are_not_those_of_the_box_before_it(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def change(number: int, image: ElementTree.Element) -> None:
        for box in list(image.iter("box"))[-1:]:
            box.set("ytl", "1")
            box.set("ybr", "9")  # so far that only its id says which it was
        tag = ElementTree.SubElement(image, "tag", label="weather", source="manual")
        ElementTree.SubElement(tag, "attribute", name="labeler_box").text = "rain"

    path = cvat_back(export(run, "cvat"), change)
    found = [found for _, found in sources(correct(run, str(path), "--from", "cvat", "--reviewed", "all"))]
    assert found == [["accepted", "accepted", "moved"], ["accepted", "moved"], [], ["moved"]]


# ---- lists of names


@pytest.mark.parametrize("form", ["cvat", "coco"])
def test_a_name_that_no_image_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    run = made_run(tmp_path)

    def tag(number: int, image: ElementTree.Element) -> None:
        ElementTree.SubElement(image, "tag", label="reviewed")

    if form == "cvat":
        path, known = cvat_back(export(run, form), tag), "000000-000001.png"
    else:
        path = export(run, form, "--layout", "coco") / "annotations/instances_default.json"
        known = json.loads(path.read_text())["images"][1]["file_name"]
    names = tmp_path / "names.txt"
    names.write_text(f"{known}\ntypo.png\nother.png\n")
    capsys.readouterr()
    correct(run, str(path), "--from", form, "--reviewed", str(names), code=2)
    said = capsys.readouterr().err
    assert "2 problems" in said
    assert "--reviewed names typo.png, which is not an image of the file" in said
    names.write_text(f"{known}\n")
    correct(run, str(path), "--from", form, "--reviewed", str(names))


# ---- carried over


def test_a_run_with_reviews_of_its_own_takes_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)
    out = export(run, "label-studio")
    one = correct(run, str(reviewed_tasks(out, only=[0])), "--from", "label-studio")
    both, third = str(tmp_path / "both"), str(tmp_path / "third")
    path = str(reviewed_tasks(out, only=[0, 1]))
    assert main(["correct", run.uri, path, "--from", "label-studio", "--output", both]) == 0
    capsys.readouterr()
    assert main(["correct", both, "--from-run", one.uri, "--output", third]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has reviews of its own" in line
    assert not Path(third).exists()


def twins(folder: Path, *names: str) -> Run:
    box = Detections.of([[10, 10, 50, 50]], [0.9], [3])
    made = [labeled_row(at, box, digest="ab" * 16, image_key=name) for at, name in enumerate(names)]
    return write_run(folder, {(0, 0): made})


def reviewed_twins(folder: Path) -> Run:
    """A run whose first image has no box by review, and whose second one, its copy, has one."""
    run = twins(folder / "run", "a.jpg", "b.jpg")
    images = [
        {"id": at + 1, "file_name": f"part-0.tar/{at}.jpg", "labeler_row": f"000000/00000{at}"} for at in range(2)
    ]
    boxes = [{"id": 1, "image_id": 2, "category_id": 3, "bbox": [10, 10, 40, 40]}]
    path = folder / "back.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}]}))
    return correct(run, str(path), "--from", "coco", "--reviewed", "all")


def test_copies_of_an_image_keep_each_its_own_review(tmp_path: Path) -> None:
    corrected = reviewed_twins(tmp_path)
    newer = twins(tmp_path / "newer", "b.jpg", "a.jpg")
    assert main(["correct", newer.uri, "--from-run", corrected.uri, "--output", str(tmp_path / "carried")]) == 0
    found = rows(require_run(str(tmp_path / "carried")))
    assert [(row.review, len(row.detections)) for row in found] == [("complete", 1), ("complete", 0)]


def test_copies_that_were_reviewed_otherwise_and_have_other_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrected = reviewed_twins(tmp_path)
    newer = twins(tmp_path / "newer", "c.jpg")
    capsys.readouterr()
    assert main(["correct", newer.uri, "--from-run", corrected.uri, "--output", str(tmp_path / "carried")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "could take 2 different reviews" in line


# ---- as ground truth of another run


def test_reviews_are_not_the_truth_of_other_images_of_the_same_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrected = reviewed_twins(tmp_path)
    box = Detections.of([[10, 10, 50, 50]], [0.9], [3])
    rows_of = [labeled_row(at, box, image_key=name) for at, name in enumerate(("a.jpg", "b.jpg"))]
    other = write_run(tmp_path / "other", {(0, 0): rows_of})
    capsys.readouterr()
    assert main(["evaluate", other.uri, "--annotations", corrected.uri]) == 2
    said = capsys.readouterr().err
    assert "2 images of annotations" in said
    assert "have other bytes than those of run" in said
    assert main(["evaluate", twins(tmp_path / "same", "a.jpg", "b.jpg").uri, "--annotations", corrected.uri]) == 0

"""Ids that are missing, doubled or of another image, and boxes whose sides say little: nothing else may change."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import require_run
from labeler.segmenters.sam import Segmented
from tests.correction_parts import (
    checked,
    correct,
    cvat_back,
    export,
    made_run,
    reviewed_tasks,
    rows,
    sources,
    tasks_of,
)
from tests.mask_parts import Filling, filled
from tests.red_boxes import red_run


def test_a_box_that_cvat_pasted_into_an_image_without_boxes_is_added_to_that_image(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    copied: list[ElementTree.Element] = []

    def paste(number: int, image: ElementTree.Element) -> None:
        if number == 0:
            copied.extend(image.findall("box")[:1])
        if number == 2:
            image.append(copy.deepcopy(copied[0]))
            ElementTree.SubElement(image, "tag", label="reviewed")

    corrected = correct(run, str(cvat_back(export(run, "cvat"), paste)), "--from", "cvat")
    found = sources(corrected)
    assert found[2] == ("complete", ["added"])
    assert [review for review, _ in found] == [None, None, "complete", None]


@pytest.mark.parametrize("digest", [True, False])
def test_a_box_that_was_pasted_in_a_coco_file_without_rows_is_added(tmp_path: Path, digest: bool) -> None:
    run = made_run(tmp_path)
    path = export(run, "coco", "--layout", "coco") / "annotations/instances_default.json"
    values = json.loads(path.read_text())
    pasted = next(each for each in values["annotations"] if each["image_id"] == 1)
    values["annotations"].append(pasted | {"image_id": 3, "id": 999})
    for image in values["images"]:
        del image["labeler_row"]
        image["reviewed"] = image["id"] == 3
        if not digest:
            del image["digest"]
    path.write_text(json.dumps(values))
    found = sources(correct(run, str(path), "--from", "coco"))
    assert found[2] == ("complete", ["added"])
    assert [review for review, _ in found] == [None, None, "complete", None]


def test_a_pasted_region_of_a_task_without_its_row_is_added(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    path = reviewed_tasks(export(run, "label-studio"), only=[0, 3])
    tasks = json.loads(path.read_text())
    region = copy.deepcopy(tasks[0]["annotations"][0]["result"][0])
    region["value"] |= {"x": 1.0, "y": 1.0, "width": 10.0, "height": 10.0}
    tasks[3]["annotations"][0]["result"] = [region]  # its own box was removed
    for task in tasks:
        del task["data"]["labeler_row"]
    path.write_text(json.dumps(tasks))
    found = sources(correct(run, str(path), "--from", "label-studio"))
    assert found[3] == ("complete", ["added"])


def test_regions_without_an_id_are_each_a_box(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def without_ids(number: int, annotation: dict[str, Any]) -> None:
        for region in annotation["result"]:
            del region["id"]

    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"), without_ids)), "--from", "label-studio")
    assert [len(row.detections) for row in rows(corrected)] == [3, 2, 0, 1]
    assert {source for _, each in sources(corrected) for source in each} == {"accepted"}


@pytest.mark.parametrize("copied_first", [True, False])
def test_a_copy_with_the_editors_ending_is_another_box(tmp_path: Path, copied_first: bool) -> None:
    run = made_run(tmp_path)

    def double(number: int, annotation: dict[str, Any]) -> None:
        if number == 3:
            drawn = copy.deepcopy(annotation["result"][0])
            drawn["id"] += "#3"
            drawn["value"] |= {"x": 1.0, "y": 1.0, "width": 10.0, "height": 10.0}
            annotation["result"].insert(0 if copied_first else 1, drawn)

    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"), double)), "--from", "label-studio")
    assert sources(corrected)[3] == ("complete", ["accepted", "added"])


def test_an_added_box_has_no_score_of_the_model_after_another_review_either(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def draw(number: int, annotation: dict[str, Any]) -> None:
        drawn = copy.deepcopy(annotation["result"][0]) | {"id": "drawn"}
        drawn["value"] |= {"x": 1.0, "y": 1.0, "width": 10.0, "height": 10.0}
        annotation["result"].append(drawn)

    first = correct(run, str(reviewed_tasks(export(run, "label-studio"), draw, only=[3])), "--from", "label-studio")
    (tmp_path / "again").mkdir()
    out, second = tmp_path / "again/out", str(tmp_path / "again/run")
    assert main(["export", first.uri, "--to", "label-studio", "--output", str(out)]) == 0
    path = str(reviewed_tasks(out, only=[3]))
    assert main(["correct", first.uri, path, "--from", "label-studio", "--output", second]) == 0
    row = rows(require_run(second))[3]
    assert list(row.detections.more["source"]) == ["accepted", "added"]
    scores = row.detections.more["model_score"]
    assert np.array_equal(scores, np.float32([0.7, np.nan]), equal_nan=True)


class Narrow(Filling):
    """Masks that are narrower than their boxes by more than a tool rounds."""

    def draw(self, sketch: Any) -> Any:
        (height, width), found = sketch
        inner = found.boxes + np.array([2, 2, -2, -2])
        return Segmented(found.with_masks([filled(box, height, width) for box in inner]))


def test_a_mask_whose_box_was_deleted_is_a_moved_box_with_that_mask(tmp_path: Path) -> None:
    run = red_run(tmp_path, shards=1, images=1, segmenter=Narrow())

    def delete_box(number: int, annotation: dict[str, Any]) -> None:
        annotation["result"] = [region for region in annotation["result"][:2] if region["type"] == "brushlabels"]

    corrected = correct(run, str(reviewed_tasks(export(run, "label-studio"), delete_box)), "--from", "label-studio")
    (row,), (before,) = rows(corrected), rows(run)
    assert list(row.detections.more["source"]) == ["moved"]
    mask = row.detections.mask_of(0)
    assert mask is not None
    assert mask == before.detections.mask_of(0)
    assert row.detections.boxes[0].tolist() == list(mask.bounds or ())


OUTSIDE = [
    Detections.of([[-30, 5, 0.001, 10], [10, 10, 30, 30]], [0.9, 0.8], [1, 2]),
    Detections.of([[-30, -30, -2, -2], [10, 10, 30, 30]], [0.9, 0.8], [1, 2]),
]


@pytest.mark.parametrize("form", ["label-studio", "cvat", "x-anylabeling"])
def test_an_unedited_box_without_an_area_in_the_image_is_accepted(tmp_path: Path, form: str) -> None:
    run = made_run(tmp_path, OUTSIDE)
    out = export(run, form)
    if form == "cvat":
        path = [str(cvat_back(out)), "--reviewed", "all"]
    else:
        path = [str(reviewed_tasks(out) if form == "label-studio" else checked(out))]
    corrected = correct(run, *path, "--from", form)
    for before, after in zip(rows(run), rows(corrected), strict=True):
        assert set(after.detections.more["source"]) == {"accepted"}
        assert np.array_equal(after.detections.boxes, before.detections.boxes)


def test_a_crop_of_another_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = [[x, y, x + 6, y + 7] for x in (2, 24, 60, 84) for y in (3, 30, 50)]
    run = made_run(tmp_path, [Detections.of(crowd, np.linspace(0.9, 0.3, 12), [1] * 12)])
    out = export(run, "label-studio", "--boxes-per-task", "4")
    assert len(tasks_of(out)) > 2

    def enlarge(number: int, annotation: dict[str, Any]) -> None:
        for region in annotation["result"] if number == 1 else []:
            region["original_width"] *= 2

    capsys.readouterr()
    correct(run, str(reviewed_tasks(out, enlarge)), "--from", "label-studio", code=2)
    assert "correct the copies that were exported" in capsys.readouterr().err

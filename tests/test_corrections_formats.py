"""CVAT, X-AnyLabeling, COCO and marks, out and back; and what says which images were reviewed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.corrections.shapes import box_of, turned
from labeler.labels.detections import Detections
from labeler.runs import Run
from tests.correction_parts import (
    BOXES,
    NAMES,
    checked,
    correct,
    cvat_back,
    export,
    jobs_file,
    made_run,
    reviewed_tasks,
    rows,
    sources,
    tasks_of,
)


def coco_back(out: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    values = json.loads((out / "annotations/instances_default.json").read_text())
    if change is not None:
        change(values)
    path = out.parent / "back.json"
    path.write_text(json.dumps(values, ensure_ascii=False))
    return path


def back(run: Run, form: str, *, ids: bool = True) -> list[str]:
    """What `labeler correct` gets of a run that went out and came back as it was."""
    folder = Path(run.uri).parent
    if form == "cvat":
        path = cvat_back(export(run, form), ids=ids)
        return [str(path), "--from", form, "--jobs", str(jobs_file(folder, "completed", images=4))]
    if form == "x-anylabeling":

        def forget(number: int, document: dict[str, Any]) -> None:
            for shape in document["shapes"]:
                shape["description"] = "" if not ids else shape["description"]
            if not ids:
                for name in ("labeler_run", "labeler_row", "labeler_digest", "labeler_shown"):
                    del document[name]
                document["imagePath"] = f"{number:03d}.png"

        return [str(checked(export(run, form), forget)), "--from", form]
    if form == "coco":

        def strip(values: dict[str, Any]) -> None:
            for image in [] if ids else values["images"]:
                del image["labeler_row"], image["digest"]
            for annotation in [] if ids else values["annotations"]:
                del annotation["labeler_box"]

        return [str(coco_back(export(run, form, "--layout", "coco"), strip)), "--from", form, "--reviewed", "all"]
    return [str(reviewed_tasks(export(run, "label-studio"))), "--from", "label-studio"]


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("form", ["cvat", "x-anylabeling", "coco"])
def test_what_comes_back_unedited_is_the_run_to_the_bit_and_all_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, ids: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    run = made_run(tmp_path)
    corrected = correct(run, *back(run, form, ids=ids))
    for before, after in zip(rows(run), rows(corrected), strict=True):
        assert np.array_equal(after.detections.boxes, before.detections.boxes)
        assert np.array_equal(after.detections.category_ids, before.detections.category_ids)
        assert np.array_equal(after.detections.more["model_score"], before.detections.scores)
        assert set(after.detections.more["source"]) <= {"accepted"}
        assert (after.review, after.status) == ("complete", before.status)


# ---- CVAT


def edit(number: int, image: ElementTree.Element) -> None:
    boxes = list(image.iter("box"))
    if number == 0:
        boxes[0].set("xtl", "16.25")  # moved
        boxes[1].set("label", "cat")  # renamed, and still "auto": CVAT does not say it
        image.remove(boxes[2])
        pasted = ElementTree.SubElement(image, "box", {**boxes[0].attrib, "source": "manual", "label": NAMES[3]})
        pasted.attrib |= {"xtl": "1", "ytl": "40", "xbr": "9", "ybr": "50"}
        ElementTree.SubElement(pasted, "attribute", name="labeler_box").text = "000000/000000/0"  # with the copy's id
        other = ElementTree.SubElement(image, "box", {**pasted.attrib, "xtl": "60", "xbr": "70"})
        ElementTree.SubElement(other, "attribute", name="labeler_box").text = "000000/000003/0"  # of another image
    if number == 3:
        image.remove(boxes[0])


def test_edits_in_cvat_are_known_whatever_its_source_says(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    jobs = jobs_file(tmp_path, "completed", images=4)
    corrected = correct(run, str(cvat_back(export(run, "cvat"), edit)), "--from", "cvat", "--jobs", str(jobs))
    first, second, third, fourth = rows(corrected)
    assert list(first.detections.more["source"]) == ["moved", "renamed", "added", "added"]
    assert first.detections.boxes[0].tolist() == [16.25, 5.5, 40.75, 30]
    assert first.detections.boxes[1].tolist() == BOXES[0].boxes[1].tolist()
    assert list(second.detections.more["source"]) == ["accepted", "accepted"]
    assert (third.review, third.status) == ("complete", "empty")
    assert (fourth.review, fourth.status) == ("complete", "empty")


def test_jobs_tags_and_a_list_say_what_was_reviewed_in_cvat(tmp_path: Path) -> None:
    def tag(number: int, image: ElementTree.Element) -> None:
        if number == 3:
            ElementTree.SubElement(image, "tag", label="reviewed", source="manual")

    path = cvat_back(export(made_run(tmp_path), "cvat"), tag)
    names = tmp_path / "names.txt"
    names.write_text("000000-000001.png\n")
    asked = {
        "jobs": (["--jobs", str(jobs_file(tmp_path, "completed", "new", "in progress", "completed"))], [0, 3]),
        "tags": ([], [3]),
        "names": (["--reviewed", str(names)], [1, 3]),
        "all": (["--reviewed", "all"], [0, 1, 2, 3]),
    }
    for name, (options, reviewed) in asked.items():
        output = tmp_path / name
        command = ["correct", str(tmp_path / "run"), str(path), "--from", "cvat", *options, "--output", str(output)]
        assert main(command) == 0
        from labeler.runs import require_run

        found = [row.review for row in rows(require_run(str(output)))]
        assert [place for place, review in enumerate(found) if review == "complete"] == reviewed


BOMB = "<!DOCTYPE a [" + "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol" * 10}">' for n in range(9)
) + "]>\n"  # fmt: skip


def turn(number: int, image: ElementTree.Element) -> None:
    for box in image.iter("box"):
        box.set("rotation", "30.5")


def test_a_rotated_box_of_cvat_is_refused_or_its_envelope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path)
    path, jobs = cvat_back(export(run, "cvat"), turn), jobs_file(tmp_path, "completed", images=4)
    capsys.readouterr()
    correct(run, str(path), "--from", "cvat", "--jobs", str(jobs), code=2)
    assert "a rotated box; draw an upright box, or take the box around it with --envelopes" in capsys.readouterr().err
    found = rows(correct(run, str(path), "--from", "cvat", "--jobs", str(jobs), "--envelopes"))[3]
    corners = turned((30, 10, 70, 50), 30.5)
    around = [*np.maximum(corners.min(0), 0), *np.minimum(corners.max(0), (96, 64))]
    assert np.allclose(found.detections.boxes[0], around, atol=1e-3)


def test_corners_of_upright_boxes_are_told_from_others() -> None:
    assert box_of([[5, 6], [1, 2]]) == [1, 2, 5, 6]
    assert box_of([[1, 2], [5, 2], [5, 6], [1, 6]]) == [1, 2, 5, 6]
    assert box_of(turned((0, 0, 10, 10), 45)) is None
    assert box_of(turned((0, 0, 10, 20), 3)) is None
    assert box_of([[1, 2], [5, 2], [5, 6]]) is None
    assert box_of([[1, 2], [1, 2], [5, 6], [5, 6]]) is None
    assert np.allclose(turned((0, 0, 10, 20), 90), [[15, 5], [15, 15], [-5, 15], [-5, 5]])


# ---- X-AnyLabeling


def test_edits_in_x_anylabeling_and_what_is_not_checked(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def change(number: int, document: dict[str, Any]) -> None:
        if number == 0:
            document["shapes"][0]["points"] = [[1, 2], [30, 20]]  # two corners, as labelme has them
            document["shapes"][1]["label"] = "cat"
            document["shapes"][2]["description"] = ""
        if number == 1:
            document["checked"] = "failed"
        if number == 3:
            document["shapes"] = []

    corrected = correct(run, str(checked(export(run, "x-anylabeling"), change, only=[0, 2])), "--from", "x-anylabeling")
    found = sources(corrected)
    assert found[0] == ("complete", ["moved", "renamed", "accepted"])
    assert [review for review, _ in found] == ["complete", None, "complete", None]
    counts = json.loads((Path(corrected.uri) / "corrections.json").read_text())
    assert counts["images"] == {"complete": 2, "forgotten": 0, "skipped": 1, "unreviewed": 1}


def test_labelme_says_reviewed_by_a_flag(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def change(number: int, document: dict[str, Any]) -> None:
        del document["checked"]
        document["flags"] = {"reviewed": number < 2}

    corrected = correct(run, str(checked(export(run, "x-anylabeling"), change)), "--from", "x-anylabeling")
    assert [row.review for row in rows(corrected)] == ["complete", "complete", None, None]


# ---- COCO


def test_coco_says_by_a_member_of_its_images_or_a_list_what_was_reviewed(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def change(values: dict[str, Any]) -> None:
        for number, image in enumerate(values["images"]):
            image["reviewed"] = number in (1, 2)
        values["annotations"] = [a for a in values["annotations"] if a["image_id"] != 2]

    path = coco_back(export(run, "coco", "--layout", "coco"), change)
    found = rows(correct(run, str(path), "--from", "coco"))
    assert [(row.review, len(row.detections)) for row in found] == [
        (None, 3), ("complete", 0), ("complete", 0), (None, 1)
    ]  # fmt: skip


def test_categories_of_coco_go_by_name_and_crowds_are_not_boxes(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    out = export(run, "coco", "--layout", "coco", "--category-ids", "zero-based", "--threshold", "0.5",
                 "--uncertain", "0.1..", "--uncertain-as", "crowd")  # fmt: skip
    found = sources(correct(run, str(coco_back(out)), "--from", "coco", "--reviewed", "all"))
    assert [each for _, each in found] == [["accepted", "accepted"], ["accepted", "accepted"], [], ["accepted"]]


# ---- what each refuses


def refused_xml(change: Callable[[str], str]) -> Callable[[Run], list[str]]:
    def make(run: Run) -> list[str]:
        path = cvat_back(export(run, "cvat"))
        path.write_text(change(path.read_text()))
        return [str(path), "--from", "cvat", "--reviewed", "all"]

    return make


def refused_labels(**members: Any) -> Callable[[Run], list[str]]:
    def make(run: Run) -> list[str]:
        out = checked(export(run, "x-anylabeling"), lambda number, document: document.update(members))
        return [str(out), "--from", "x-anylabeling"]

    return make


def refused_coco(**members: Any) -> Callable[[Run], list[str]]:
    def make(run: Run) -> list[str]:
        path = coco_back(export(run, "coco", "--layout", "coco"), lambda values: values.update(members))
        return [str(path), "--from", "coco", *([] if members.pop("unsaid", False) else ["--reviewed", "all"])]

    return make


def other_cvat(run: Run) -> list[str]:
    """A file of a run with other boxes at the same ids, from a CVAT project with labels of its own."""
    import re

    path = cvat_back(export(run, "cvat"))
    text = re.sub(r'(x[tb][lr])="([\d.]+)"', lambda found: f'{found[1]}="{96 - float(found[2]):.2f}"', path.read_text())
    text = text.replace('xtl="', 'was="').replace('xbr="', 'xtl="').replace('was="', 'xbr="')
    path.write_text(text.replace("labeler_run", "x"))
    return [str(path), "--from", "cvat", "--reviewed", "all"]


BAD: dict[str, Callable[[Run], list[str]]] = {
    "of run 0000, this is run": lambda run: refused_xml(
        lambda text: text.replace(run.manifest.run_id, "0000")
    )(run),
    "with a document type, which may hold entities": refused_xml(lambda text: BOMB + text.replace("cat", "&l8;", 1)),
    "CVAT's XML does not say which images were reviewed; add --jobs": lambda run: back(run, "cvat")[:3],
    "are not XML": refused_xml(lambda text: text[:-30]),
    "not CVAT's annotations (the document is <a>)": refused_xml(lambda text: "<a/>"),
    "tracks of a video": refused_xml(lambda text: "<annotations><track/></annotations>"),
    "nested more than 64 levels": refused_xml(lambda text: "<annotations>" + "<a>" * 99),
    "whose corners are not numbers": refused_xml(lambda text: text.replace('xtl="', 'xtl="x', 1)),
    "is not a category of the run": refused_xml(lambda text: text.replace('label="cat"', 'label="cut"')),
    "97 x 64 in the file and 96 x 64 in the run": refused_xml(lambda text: text.replace('width="96"', 'width="97"')),
    "seem to be of another run": other_cvat,
    "of run 1234": refused_labels(labeler_run="1234"),
    "a polygon; draw an upright box": refused_labels(
        shapes=[{"label": "cat", "points": [[1, 1], [5, 1], [3, 9]], "shape_type": "polygon"}]
    ),
    "a rotated box": refused_labels(
        shapes=[{"label": "cat", "points": [[5, 1], [9, 5], [5, 9], [1, 5]], "shape_type": "rotation"}]
    ),
    "needs `points`": refused_labels(shapes=[{"label": "cat", "points": [[1, "a"]]}]),
    "needs a `label`": refused_labels(shapes=[{"points": [[1, 2], [5, 6]], "shape_type": "rectangle"}]),
    "reaches out of the image of 96 x 64": refused_labels(
        shapes=[{"label": "cat", "points": [[1, 2], [5, 600]], "shape_type": "rectangle"}]
    ),
    "no label file says whether its image was reviewed": refused_labels(checked=None),
    "has no list `shapes`": refused_labels(shapes=None),
    "COCO cannot tell a reviewed image without boxes": refused_coco(unsaid=True),
    "no images or no categories": refused_coco(images=[]),
    "used twice": refused_coco(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]),
    "are for other images (such as image 1 (a.jpg))": refused_coco(
        images=[{"id": 1, "file_name": "a.jpg"}], annotations=[]
    ),
    "needs `image_id`, `category_id` and `bbox`": refused_coco(annotations=[{"image_id": 1}]),
    "are not a COCO json": lambda run: [back(run, "label-studio")[0], "--from", "coco", "--reviewed", "all"],
    "no label file (.json) in it": lambda run: [str(Path(run.uri) / "labels"), "--from", "x-anylabeling"],
    "--reviewed is all, or a file": lambda run: [*back(run, "cvat")[:3], "--reviewed", "nothing.txt"],
    "must be a list of jobs": lambda run: [*back(run, "cvat")[:3], "--jobs", f"{run.uri}/run.json"],
    "--jobs is for --from cvat; --from marks does not": lambda run: ["a", "--from", "marks", "--jobs", "b"],
    "say FILE and its format": lambda run: ["a"],
    "is incomplete": lambda run: _unfinished(run, back(run, "label-studio")),
}  # fmt: skip


def _unfinished(run: Run, arguments: list[str]) -> list[str]:
    for path in (Path(run.uri) / "shards").iterdir():
        path.unlink()
    return arguments


@pytest.mark.parametrize("says", BAD)
def test_what_cannot_be_taken_over_is_refused_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], says: str
) -> None:
    run = made_run(tmp_path)
    arguments = BAD[says](run)
    capsys.readouterr()
    correct(run, *arguments, code=2)
    said = capsys.readouterr().err
    assert says in said, said
    assert said.startswith("labeler: ")
    assert len(said) < 5_000


# ---- crowded images, which go out as crops

CROWD = [[x, y, x + 6, y + 7] for x in (2, 24, 60, 84) for y in (3, 30, 50)]
CROWDED = [Detections.of(CROWD, np.linspace(0.9, 0.3, len(CROWD)), [1, 2, 3] * 4), BOXES[1]]


@pytest.mark.parametrize("form", ["label-studio", "x-anylabeling"])
def test_crops_come_back_as_one_image_if_all_were_reviewed(tmp_path: Path, form: str) -> None:
    run = made_run(tmp_path, CROWDED)
    out = export(run, form, "--boxes-per-task", "4")
    if form == "label-studio":
        count = len(tasks_of(out))
        path = reviewed_tasks(out)
    else:
        path = checked(out)
        count = len(list(out.glob("images/**/*.json")))
    assert count > 4
    corrected = correct(run, str(path), "--from", form)
    for before, after in zip(rows(run), rows(corrected), strict=True):
        assert np.array_equal(after.detections.boxes, before.detections.boxes)
        assert np.array_equal(after.detections.category_ids, before.detections.category_ids)
        assert set(after.detections.more["source"]) == {"accepted"}
        assert after.review == "complete"


def test_an_image_with_a_crop_that_nobody_reviewed_is_not_reviewed(tmp_path: Path) -> None:
    run = made_run(tmp_path, CROWDED)
    out = export(run, "label-studio", "--boxes-per-task", "4")
    corrected = correct(run, str(reviewed_tasks(out, only=range(1, len(tasks_of(out))))), "--from", "label-studio")
    assert [row.review for row in rows(corrected)] == [None, "complete"]

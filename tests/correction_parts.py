"""Runs that go out to people's tools, what the tools would write after a review, and what came back."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.labels.records import Row, table_to_rows
from labeler.runs import Run, read_snapshot, require_run
from tests.exports_of_files import run_over_pictures

NAMES = ["cat", "dog", 'a "quoted" & <sharp> name', "猫"]
# Of images of 96 x 64: odd fractions, over the border, one within another, and none.
BOXES = [
    Detections.of([[10.123456, 5.5, 40.75, 30.0001], [50, 20, 90.3, 60], [-2.5, 1, 20, 70]],
                  [0.9, 0.61, 0.3], [1, 2, 3]),
    Detections.of([[20, 20, 60, 60], [21, 20, 60, 61]], [0.8, 0.55], [1, 2]),
    Detections.empty(),
    Detections.of([[30, 10, 70, 50]], [0.7], [4]),
]  # fmt: skip


def made_run(folder: Path, boxes: Sequence[Detections] = BOXES) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    return run_over_pictures(folder, boxes, names=NAMES)


def export(run: Run, to: str, *options: str) -> Path:
    """Everything that the run has, unless options say otherwise; the folder beside the run."""
    out = Path(run.uri).parent / f"out-{to}"
    everything = ("--suppress", "off", "--min-side", "0")
    assert main(["export", run.uri, "--to", to, "--output", str(out), *everything, *options]) == 0
    return out


def correct(run: Run, *arguments: str, code: int = 0) -> Run:
    """The corrected run beside the run; with another `code` the command must have written nothing."""
    output = Path(run.uri).parent / "corrected"
    was_there = output.exists()
    assert main(["correct", run.uri, *arguments, "--output", str(output)]) == code
    if code:
        assert output.exists() == was_there
        return run
    return require_run(str(output))


def rows(run: Run) -> list[Row]:
    return [row for table in read_snapshot(run).tables() for row in table_to_rows(table, run.keep)]


def sources(run: Run) -> list[tuple[str | None, list[str | None]]]:
    """(review, source of each box) of each row."""
    return [(row.review, list(row.detections.more["source"])) for row in rows(run)]


# ---- Label Studio


def tasks_of(out: Path) -> list[dict[str, Any]]:
    return [task for path in sorted(out.glob("*.json")) for task in json.loads(path.read_text())]


def submitted(task: dict[str, Any], *, number: int = 1, annotator: int = 1) -> dict[str, Any]:
    """The annotation that a click on Submit makes of the prediction that is shown."""
    result = copy.deepcopy(task["predictions"][0]["result"])
    for region in result:
        region["origin"] = "prediction"
        del region["score"]
    return {
        "id": number, "completed_by": annotator, "result": result, "was_cancelled": False, "ground_truth": False,
        "created_at": f"2026-01-0{number}T00:00:00Z", "updated_at": f"2026-01-0{number}T00:00:00Z",
        "lead_time": 3.2, "parent_prediction": 1,
    }  # fmt: skip


def reviewed_tasks(
    out: Path, change: Callable[[int, dict[str, Any]], None] | None = None, *, only: Sequence[int] | None = None
) -> Path:
    """The JSON export of a project whose tasks were all (or `only` these) submitted; `change` gets each annotation."""
    tasks = tasks_of(out)
    for number, task in enumerate(tasks):
        task |= {"id": number + 1, "drafts": [], "annotations": []}
        if only is None or number in only:
            task["annotations"] = [submitted(task)]
            if change is not None:
                change(number, task["annotations"][0])
    path = out.parent / "project.json"
    path.write_text(json.dumps(tasks, ensure_ascii=False))
    return path


def move(region: dict[str, Any], by: float = 4.0) -> None:
    region["value"]["x"] = region["value"]["x"] + by
    region["origin"] = "prediction-changed"


def rename(region: dict[str, Any], name: str) -> None:
    region["value"]["rectanglelabels"] = [name]


# ---- CVAT


def cvat_back(
    out: Path, change: Callable[[int, ElementTree.Element], None] | None = None, *, head: str = "", ids: bool = True
) -> Path:
    """annotations.xml as CVAT exports it again: attributes of labels filled in; `change` gets each image.

    CVAT gives every attribute of a label to each of its boxes and tags, "" if that was its default.
    """
    root = ElementTree.parse(out / "task-00000/annotations.xml").getroot()
    for number, image in enumerate(root.iter("image")):
        for box in image.iter("box"):
            whose = ElementTree.SubElement(box, "attribute", name="labeler_run")
            whose.text = next(
                each.findtext("default_value")
                for each in root.iter("attribute")
                if each.findtext("name") == "labeler_run"
            )
            if not ids:
                for each in list(box):
                    box.remove(each)
        for tag in image.iter("tag"):
            given = {each.get("name") for each in tag}
            for name in {"labeler_row", "labeler_shown", "labeler_asked", "labeler_crop"} - given:
                ElementTree.SubElement(tag, "attribute", name=name).text = ""
        if change is not None:
            change(number, image)
    path = out.parent / "annotations.xml"
    path.write_text(head + ElementTree.tostring(root, encoding="unicode"))
    return path


def jobs_file(folder: Path, *states: str, images: int = 1) -> Path:
    """A job per state, of that many images."""
    jobs = [
        {"id": n + 7, "task_id": 3, "start_frame": n * images, "stop_frame": (n + 1) * images - 1, "state": state,
         "stage": "annotation"}
        for n, state in enumerate(states)
    ]  # fmt: skip
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    return path


# ---- X-AnyLabeling


def checked(
    out: Path, change: Callable[[int, dict[str, Any]], None] | None = None, *, only: Sequence[int] | None = None
) -> Path:
    """The folder after a person has pressed "checked" on every image, or `only` on these."""
    for number, path in enumerate(sorted(out.glob("images/**/*.json"))):
        document = json.loads(path.read_text())
        document["checked"] = only is None or number in only
        if change is not None:
            change(number, document)
        path.write_text(json.dumps(document, ensure_ascii=False))
    return out

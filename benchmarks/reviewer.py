"""A reviewer who knows the truth: corrects Label Studio's tasks of a sample, and writes what a project exports.

    python -m benchmarks.reviewer TASKS SAMPLE ANNOTATIONS --output project.json

The drawn boxes are judged as `labeler evaluate` judges: by falling score, each object once, at IoU 0.5. A box that fits
its object badly is moved to it, one with another name is renamed, one without an object is removed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import iou

RIGHT_IOU, GOOD_IOU = 0.5, 0.8  # from which a box is right, and from which nobody moves it
Region = dict[str, Any]


class Truth:
    """True boxes by file name, as (n, 4) xyxy in pixels and (n,) names."""

    def __init__(self, annotations: dict[str, Any]) -> None:
        names = {category["id"]: category["name"] for category in annotations["categories"]}
        self._boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in annotations["images"]}
        self._names: dict[int, list[str]] = {image["id"]: [] for image in annotations["images"]}
        for one in annotations["annotations"]:
            x, y, width, height = one["bbox"]
            self._boxes[one["image_id"]].append([x, y, x + width, y + height])
            self._names[one["image_id"]].append(names[one["category_id"]])
        self._ids = {image["file_name"]: image["id"] for image in annotations["images"]}

    def of(self, file_name: str) -> tuple[npt.NDArray[np.float64], list[str]]:
        id_ = self._ids[file_name]
        return np.array(self._boxes[id_], np.float64).reshape(-1, 4), self._names[id_]


def review(tasks: Path, sample: dict[str, Any], truth: Truth, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield each task with one annotation, like a project's JSON export; `counts` counts the reviewer's actions."""
    file_names = {f"{image['shard_id']}/{image['index']:06d}": image["file_name"] for image in sample["images"]}
    number = 0
    for path in sorted(tasks.glob("tasks-*.json")):
        for task in json.loads(path.read_text()):
            number += 1
            prediction = task["predictions"][0]
            drawn = {one["box"].replace("/", "-") for one in task["data"]["labeler_boxes"]}
            boxes, names = truth.of(file_names[task["data"]["labeler_row"]])
            result = list(_corrected(prediction["result"], drawn, boxes, names, counts))
            yield {
                "id": number,
                "data": task["data"],
                "annotations": [_annotation(number, result)],
                "drafts": [],
                "predictions": [prediction],
            }


def _corrected(
    regions: list[Region], drawn: set[str], boxes: npt.NDArray[np.float64], names: list[str], counts: Counter[str]
) -> Iterator[Region]:
    """The regions that are left after the review; those that were not drawn only take their objects."""
    free = np.ones(len(boxes), np.bool_)
    for region in sorted(regions, key=lambda region: -region["score"]):
        label = region["value"]["rectanglelabels"][0]
        fits = iou(_pixels(region)[None], boxes)[0] * free if len(boxes) else np.zeros(0)
        mine = fits * np.array([name == label for name in names], np.bool_)
        place = int((mine if (mine >= RIGHT_IOU).any() else fits).argmax()) if len(boxes) else -1
        found = place >= 0 and fits[place] >= RIGHT_IOU
        if found:
            free[place] = False
        if region["id"] not in drawn:
            yield _submitted(region, "prediction")
        elif not found:
            counts["removed"] += 1
        elif names[place] != label:
            counts["renamed"] += 1
            changed = _submitted(region, "prediction-changed")
            changed["value"]["rectanglelabels"] = [names[place]]
            yield changed
        elif fits[place] < GOOD_IOU:
            counts["moved"] += 1
            changed = _submitted(region, "prediction-changed")
            changed["value"] |= _percents(region, boxes[place])
            yield changed
        else:
            counts["accepted"] += 1
            yield _submitted(region, "prediction")


def _submitted(region: Region, origin: str) -> Region:
    found = {name: copy.deepcopy(value) for name, value in region.items() if name != "score"}
    return found | {"origin": origin}


def _pixels(region: Region) -> npt.NDArray[np.float64]:
    value, width, height = region["value"], region["original_width"], region["original_height"]
    x, y, w, h = value["x"] * width, value["y"] * height, value["width"] * width, value["height"] * height
    return np.array([x, y, x + w, y + h], np.float64) / 100


def _percents(region: Region, box: npt.NDArray[np.float64]) -> dict[str, float]:
    width, height = region["original_width"], region["original_height"]
    x0, y0, x1, y1 = np.clip(box, 0, [width, height, width, height]).tolist()
    return {
        "x": 100 * x0 / width,
        "y": 100 * y0 / height,
        "width": 100 * (x1 - x0) / width,
        "height": 100 * (y1 - y0) / height,
    }


def _annotation(number: int, result: list[Region]) -> dict[str, Any]:
    return {
        "id": number, "completed_by": 1, "result": result, "was_cancelled": False, "ground_truth": False,
        "created_at": "2026-01-01T20:00:00Z", "updated_at": "2026-01-01T20:00:00Z", "lead_time": 3.2,
        "result_count": len(result), "task": number, "parent_prediction": number, "parent_annotation": None,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="folder of `labeler export --to label-studio --sample`")
    parser.add_argument("sample", type=Path, help="the sample")
    parser.add_argument("annotations", type=Path, help="the ground truth, COCO json")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write, as a project exports it")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    truth = Truth(json.loads(asked.annotations.read_text()))
    project = list(review(asked.tasks, json.loads(asked.sample.read_text()), truth, counts))
    asked.output.write_text(json.dumps(project))
    done = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    print(f"reviewed    {counts.total():,} boxes in {len(project):,} tasks: {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

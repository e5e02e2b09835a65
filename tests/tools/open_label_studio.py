"""Open exports with label-studio-sdk: `python tests/tools/open_label_studio.py FOLDER`, where it is installed."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import label_studio_sdk
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from label_studio_sdk.label_interface import LabelInterface


def open_export(out: Path) -> None:
    """Every prediction is valid for the config, broken ones are not, and the converter finds the boxes and IDs."""
    expected = json.loads((out.parent / "expected.json").read_text())
    interface = LabelInterface((out / "labels.xml").read_text())
    tasks = [task for path in sorted(out.glob("*.json")) for task in json.loads(path.read_text())]
    assert len(tasks) == expected["images"]
    regions = 0
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        regions += sum(region["type"] == "rectanglelabels" for region in prediction["result"])
        for region in prediction["result"]:
            if region["type"] == "brushlabels":
                shape = region["original_height"], region["original_width"], 4
                mask = decode_rle(region["value"]["rle"]).reshape(shape)[..., 3]
                rle = region["value"]["rle"]
                assert mask2rle(mask)[: len(rle)] == rle  # it pads to a byte more
                x, y, w, h = region_box(region["id"], prediction)
                assert (mask[y : y + h, x : x + w] == 255).all()
                assert mask.sum() // 255 == w * h
    assert regions == expected["boxes"]
    refuse_broken(interface, next(task["predictions"][0] for task in tasks if task["predictions"][0]["result"]))
    convert(out, tasks, expected)


def region_box(mask_id: str, prediction: Any) -> list[int]:
    """Pixels of the box that a mask belongs to."""
    (box,) = (region for region in prediction["result"] if region["id"] == mask_id.removesuffix("-mask"))
    sides = [box["original_width"], box["original_height"]] * 2
    return [
        round(box["value"][name] * side / 100) for name, side in zip(("x", "y", "width", "height"), sides, strict=True)
    ]


def refuse_broken(interface: Any, good: Any) -> None:
    """The validator is awake: it refuses what a task must not have."""
    for change in (("score", 1.2), ("width", 120), ("label", "no such name")):
        bad = copy.deepcopy(good)
        name, value = change
        if name == "score":
            bad["score"] = value
        elif name == "width":
            bad["result"][0]["value"]["width"] = value
        else:
            bad["result"][0]["value"]["rectanglelabels"] = [value]
        assert interface.validate_prediction(bad, return_errors=True), change


def convert(out: Path, tasks: list[Any], expected: Any) -> None:
    """Predictions submitted as they are come out of the converter's COCO with the vocabulary's ids."""
    reviewed = []
    for number, task in enumerate(tasks, 1):
        boxes = [region for region in task["predictions"][0]["result"] if region["type"] == "rectanglelabels"]
        annotation = {"id": number, "result": boxes, "was_cancelled": False, "completed_by": {"id": 1}}
        reviewed.append({"id": number, "data": task["data"], "annotations": [annotation], "predictions": []})
    source = out.parent / "reviewed.json"
    source.write_text(json.dumps(reviewed))
    config = (out / "labels.xml").read_text()
    Converter(config, str(out.parent), download_resources=False).convert_to_coco(
        str(source), str(out.parent / "coco"), output_image_dir=str(out.parent / "coco/images"), is_dir=False
    )
    found = json.loads((out.parent / "coco/result.json").read_text())
    assert len(found["images"]) == expected["images"]
    assert len(found["annotations"]) == expected["boxes"]
    import xml.etree.ElementTree as ElementTree

    ours = {
        label.get("value"): int(label.get("category", -1)) for label in ElementTree.fromstring(config).iter("Label")
    }
    assert {category["name"]: category["id"] for category in found["categories"]} == ours


if __name__ == "__main__":
    for export in sorted(Path(sys.argv[1]).glob("*/label-studio")):
        open_export(export)
        print(f"label-studio-sdk {label_studio_sdk.__version__} opens {export.parent.name}/{export.name}")

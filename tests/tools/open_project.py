"""Read a project's JSON export with label-studio-sdk: `python tests/tools/open_project.py PROJECT LABELS_XML`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import label_studio_sdk
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface


def open_project(project: Path, config: str) -> str:
    """Every annotation is valid for the labeling config, and the converter finds each of its boxes."""
    interface = LabelInterface(config)
    tasks = json.loads(project.read_text())
    regions = 0
    for task in tasks:
        (annotation,) = task["annotations"]
        (prediction,) = task["predictions"]
        assert interface.validate_annotation(annotation), task["id"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        regions += len(annotation["result"])
    with tempfile.TemporaryDirectory() as folder:
        converter = Converter(config, folder, download_resources=False)
        converter.convert_to_coco(str(project), folder, output_image_dir=f"{folder}/images", is_dir=False)
        found = json.loads((Path(folder) / "result.json").read_text())
    assert (len(found["images"]), len(found["annotations"])) == (len(tasks), regions)
    return f"{len(tasks):,} tasks are valid, and its converter finds all {regions:,} boxes"


if __name__ == "__main__":
    said = open_project(Path(sys.argv[1]), Path(sys.argv[2]).read_text())
    print(f"label-studio-sdk {label_studio_sdk.__version__}: {said}")

"""Open exports with globox and cvat-sdk: `python tests/tools/open_globox.py FOLDER` in an environment that has them."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from cvat_sdk.models import PatchedLabelRequest
from globox import AnnotationSet


def open_export(out: Path) -> None:
    expected = json.loads((out / "expected.json").read_text())
    (folder,) = {path.parent for path in (out / "x-anylabeling/images/000000").glob("*.json")}
    opened = {
        "voc": AnnotationSet.from_pascal_voc(out / "voc/Annotations"),
        "cvat": AnnotationSet.from_cvat(out / "cvat/task-00000/annotations.xml"),
        "coco": AnnotationSet.from_coco(out / "coco/annotations/instances_default.json"),
    }
    for name, found in opened.items():
        counts = len(found), sum(len(image.boxes) for image in found)
        assert counts == (expected["images"], expected["boxes"]), name
        assert {box.label for image in found for box in image.boxes} == set(expected["names"])
    files = list(folder.glob("*.json"))
    assert len(AnnotationSet.from_labelme(folder)) == len(files)


def accept_labels(out: Path) -> None:
    """The SDK takes labels.json as the labels of a task, and checks the types of its members."""
    labels = json.loads((out / "cvat/labels.json").read_text())
    assert [PatchedLabelRequest(**label)["name"] for label in labels]


if __name__ == "__main__":
    for export in sorted(Path(sys.argv[1]).iterdir()):
        open_export(export)
        accept_labels(export)
        print(f"globox {version('globox')} and cvat-sdk {version('cvat-sdk')} open {export.name}")

"""Open exports with globox and cvat-sdk: `python tests/tools/open_globox.py FOLDER` in an environment that has them."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from cvat_sdk.models import PatchedLabelRequest
from globox import AnnotationSet


def open_export(out: Path) -> None:
    """All images, boxes and names are there; tasks of samples and crops are only CVAT's."""
    expected = json.loads((out / "expected.json").read_text())
    opened = {"cvat": AnnotationSet.from_cvat(out / "cvat/task-00000/annotations.xml")}
    if (out / "voc").exists():
        opened["voc"] = AnnotationSet.from_pascal_voc(out / "voc/Annotations")
        opened["coco"] = AnnotationSet.from_coco(out / "coco/annotations/instances_default.json")
        (folder,) = {path.parent for path in (out / "x-anylabeling/images/000000").glob("*.json")}
        assert len(AnnotationSet.from_labelme(folder)) == len(list(folder.glob("*.json")))
    for name, found in opened.items():
        counts = len(found), sum(len(image.boxes) for image in found)
        assert counts == (expected["images"], expected["boxes"]), name
        assert {box.label for image in found for box in image.boxes} == set(expected["names"])


def accept_labels(out: Path) -> None:
    """The SDK takes labels.json as the labels of a task, and checks the types of its members."""
    labels = json.loads((out / "cvat/labels.json").read_text())
    assert [PatchedLabelRequest(**label)["name"] for label in labels]


if __name__ == "__main__":
    for export in sorted(path.parent for path in Path(sys.argv[1]).glob("*/expected.json")):
        open_export(export)
        accept_labels(export)
        print(f"globox {version('globox')} and cvat-sdk {version('cvat-sdk')} open {export.name}")

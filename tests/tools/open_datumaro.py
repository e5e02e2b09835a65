"""Open exports with datumaro: `python tests/tools/open_datumaro.py FOLDER` in an environment that has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datumaro
import numpy as np

RED = (220, 20, 30)
FORMATS = {"coco": "coco_instances", "roboflow": "roboflow_coco", "cvat/task-00000": "cvat", "voc": "voc_detection"}
FOUND_BY_ITSELF = ("coco", "roboflow", "cvat/task-00000")  # what is VOC may be three of its formats


def open_export(out: Path, place: str) -> None:
    """All images, boxes and names are there; in red images the pixels under each box are red."""
    expected = json.loads((out / "expected.json").read_text())
    if place in FOUND_BY_ITSELF:
        assert datumaro.Dataset.detect(str(out / place)) == FORMATS[place]
    found = datumaro.Dataset.import_from(str(out / place), FORMATS[place])
    names = [label.name for label in found.categories()[datumaro.AnnotationType.label]]
    assert set(names) >= set(expected["names"])
    boxes = 0
    for item in found:
        for box in (note for note in item.annotations if note.type == datumaro.AnnotationType.bbox):
            assert names[box.label] in expected["names"]
            assert place == "voc" or 0 < float(box.attributes["score"]) <= 100
            if place == "cvat/task-00000":
                row = item.id.partition("-crop-")[0].replace("-", "/")
                assert box.attributes["labeler_box"].startswith(row + "/")
            if out.name in ("red", "sample"):
                x, y, w, h = (round(side) for side in box.get_bbox())
                inside = item.media.data[..., ::-1][y : y + h, x : x + w].astype(int)
                assert (np.abs(inside - RED).max(-1) < 60).all()
            boxes += 1
    assert (len(found), boxes) == (expected["images"], expected["boxes"])
    if out.name in ("sample", "crops"):
        open_tags(found, out.name)


def open_tags(found: datumaro.Dataset, name: str) -> None:
    """Tags say of each image of a sample which boxes were drawn, and of each crop which part it is."""
    tags = {
        item.id: note.attributes
        for item in found
        for note in item.annotations
        if note.type == datumaro.AnnotationType.label
    }
    if name == "sample":
        assert tags.keys() == {item.id for item in found}
        # datumaro takes a value of digits for a number
        assert all(str(about["labeler_asked"]).replace(" ", "").isdecimal() for about in tags.values())
        return
    assert tags.keys() == {item.id for item in found if "-crop-" in item.id}
    assert all(json.loads(about["labeler_crop"])["count"] == len(tags) for about in tags.values())


if __name__ == "__main__":
    for export in sorted(path.parent for path in Path(sys.argv[1]).glob("*/expected.json")):
        for name in FORMATS if (export / "voc").exists() else ["cvat/task-00000"]:
            open_export(export, name)
            print(f"datumaro {datumaro.__version__} opens {export.name}/{name}")

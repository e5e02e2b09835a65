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
                assert box.attributes["labeler_box"].startswith(item.id.replace("-", "/") + "/")
            if out.name == "red":
                x, y, w, h = (round(side) for side in box.get_bbox())
                inside = item.media.data[..., ::-1][y : y + h, x : x + w].astype(int)
                assert (np.abs(inside - RED).max(-1) < 60).all()
            boxes += 1
    assert (len(found), boxes) == (expected["images"], expected["boxes"])


if __name__ == "__main__":
    for export in sorted(Path(sys.argv[1]).iterdir()):
        for name in FORMATS:
            open_export(export, name)
            print(f"datumaro {datumaro.__version__} opens {export.name}/{name}")

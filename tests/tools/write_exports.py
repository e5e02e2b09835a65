"""Write what `make test-tools` opens, with expected counts beside: `python -m tests.tools.write_exports FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from labeler.cli import main
from labeler.labels.detections import Detections
from tests.exports_of_files import run_over_pictures
from tests.mask_parts import Filling
from tests.red_boxes import red_run

NAMES = ["bow (weapon)", 'a "quoted" & <sharp> name', "猫", "a, b / c"]
ODD = [
    Detections.of(
        [[-3, -2, 50, 40], [60, 30, 99, 70], [10, 10, 20, 20], [0, 0, 96, 64]], [0.9, 1, 0.3, 0.1], [1, 2, 3, 4]
    ),
    Detections.empty(),
    Detections.of([[5.25, 5.125, 40.333, 60.666]], [0.123456], [3]),
]
EXPORTS: dict[str, list[str]] = {
    "label-studio": ["--to", "label-studio"],
    "cvat": ["--to", "cvat"],
    "x-anylabeling": ["--to", "x-anylabeling"],
    "voc": ["--to", "voc"],
    "coco": ["--to", "coco", "--layout", "coco", "--images", "copy"],
    "roboflow": ["--to", "coco", "--layout", "roboflow"],
}


def write(folder: Path) -> None:
    """red: pictures turned by EXIF, boxes with masks; odd: odd names, an empty image, boxes across the border."""
    for name in ("red", "odd"):
        (folder / name).mkdir(parents=True)
    runs = {
        "red": red_run(folder / "red", segmenter=Filling()),
        "odd": run_over_pictures(folder / "odd", ODD, names=NAMES),
    }
    for name, run in runs.items():
        for to, options in EXPORTS.items():
            assert main(["export", run.uri, "--output", str(folder / name / to), "--suppress", "off", *options]) == 0
        categories = [category.name for category in run.vocabulary().categories]
        counts = {"images": {"red": 18, "odd": 3}[name], "boxes": {"red": 36, "odd": 5}[name], "names": categories}
        (folder / name / "expected.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

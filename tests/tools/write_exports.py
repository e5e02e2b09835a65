"""Write what `make test-tools` opens, with expected counts beside: `python -m tests.tools.write_exports FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from labeler.cli import main
from labeler.labels.detections import Detections
from labeler.runs import Run
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
    """Write all exports.

    red: EXIF-rotated images, boxes with masks; odd: odd names, an empty image, boxes across the border; sample:
    tasks of a sample of red; crops: odd in crops of two boxes at most.
    """
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
    file = folder / "sample.json"
    asked = ["--strategy", "estimate", "--threshold", "0", "--suppress", "off", "--output", str(file)]
    assert main(["sample", runs["red"].uri, *asked]) == 0
    write_tasks(folder, "sample", runs["red"], 18, ["--sample", str(file)])
    write_tasks(folder, "crops", runs["odd"], 4, ["--suppress", "off", "--boxes-per-task", "2"])


def write_tasks(folder: Path, name: str, run: Run, tasks: int, options: list[str]) -> None:
    """Write tasks that are not one per image, and what they should hold; boxes are those of the whole run."""
    for to in ("label-studio", "cvat"):
        assert main(["export", run.uri, "--to", to, "--output", str(folder / name / to), *options]) == 0
    expected = json.loads((Path(run.uri).parent / "expected.json").read_text())
    (folder / name / "expected.json").write_text(json.dumps(expected | {"images": tasks}))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

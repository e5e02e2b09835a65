"""The curator's evening, small and without the training; and the reviewer who knows the ground truth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.curators_evening import spend
from benchmarks.reviewer import Truth, review


def region(id_: str, name: str, box: list[float], score: float) -> dict[str, Any]:
    """A rectangle of a 200 x 100 image, as an export has it."""
    x0, y0, x1, y1 = box
    value = {"x": x0 / 2, "y": y0, "width": (x1 - x0) / 2, "height": y1 - y0, "rotation": 0, "rectanglelabels": [name]}
    return {"id": id_, "type": "rectanglelabels", "original_width": 200, "original_height": 100, "image_rotation": 0,
            "from_name": "label", "to_name": "image", "score": score, "value": value}  # fmt: skip


def test_a_reviewer_accepts_moves_renames_and_removes_what_was_drawn_and_nothing_else(tmp_path: Path) -> None:
    objects = [([10, 10, 50, 50], 1), ([100, 10, 140, 50], 2), ([100, 60, 140, 90], 1)]
    truth = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "images": [{"id": 7, "file_name": "a.tar/1.png"}],
        "annotations": [
            {"image_id": 7, "category_id": id_, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]} for b, id_ in objects
        ],
    }
    found = [
        region("000000-000004-0", "cat", [10, 10, 50, 50], 0.9),
        region("000000-000004-1", "cat", [16, 10, 56, 50], 0.8),  # the same cat again
        region("000000-000004-2", "cat", [100, 10, 140, 50], 0.7),  # a dog
        region("000000-000004-3", "cat", [108, 60, 148, 90], 0.6),  # beside its cat
        region("000000-000004-4", "cat", [150, 60, 190, 90], 0.5),  # wrong, and nobody asked
    ]
    asked = [{"box": f"000000/000004/{place}"} for place in range(4)]
    task = {
        "data": {"labeler_row": "000000/000004", "labeler_boxes": asked},
        "predictions": [{"result": found}],
    }
    (tmp_path / "tasks-00000.json").write_text(json.dumps([task]))
    sample = {"images": [{"shard_id": "000000", "index": 4, "file_name": "a.tar/1.png"}]}
    counts: Counter[str] = Counter()
    (reviewed,) = review(tmp_path, sample, Truth(truth), counts)
    assert counts == {"accepted": 1, "removed": 1, "renamed": 1, "moved": 1}
    result = {one["id"][-1]: one for one in reviewed["annotations"][0]["result"]}
    assert sorted(result) == ["0", "2", "3", "4"]
    assert result["0"]["value"] == found[0]["value"]
    assert result["2"]["value"]["rectanglelabels"] == ["dog"]
    assert result["3"]["value"]["x"] == pytest.approx(50)
    assert result["4"]["value"] == found[4]["value"]
    assert not any("score" in one for one in result.values())


@pytest.mark.slow
def test_the_evening_is_a_log_of_commands_that_fit_each_other(tmp_path: Path) -> None:
    log = spend(tmp_path / "evening", scenes=16, held_out=2, boxes=40, steps=0, sdk=None)
    commands = [line.split()[2] for line in log.splitlines() if line.startswith("$ labeler")]
    assert commands == ["label", "sample", "export", "correct", "evaluate", "calibrate", "evaluate", "export"]
    assert str(tmp_path) not in log
    assert "40 of 40 boxes drawn" in log
    assert (tmp_path / "evening/dataset/train/_annotations.coco.json").exists()

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.labels.thresholds import Thresholds, read_thresholds
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, layout, open_run, read_snapshot
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from labeler.vocabulary import Vocabulary
from tests.label_runs import export_coco

VOCABULARY = Vocabulary.load(
    [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "sky", "negative": True}]
)
CONFIG = {"model": {"name": "m"}, "input": {"keep": []}, "detect": {"max_detections": 300}}


def write_run(folder: Path, units: Sequence[Sequence[Row]]) -> Run:
    """A complete run of one tar shard with these units, written through the real writer."""
    plan = [PlannedShard(Shard("000000", "s3://b/in/part-0.tar", 10, "e", "webdataset"), None)]
    prompts = Prompts((), frozenset({9}), 256)
    create_run(str(folder), NewRun({}, CONFIG, {}, VOCABULARY, prompts, plan))
    run = open_run(str(folder))
    assert run is not None
    for number, rows in enumerate(units):
        path = folder / layout.unit_file("000000", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table_to_parquet(rows_to_table(rows), {}))
    marker = folder / layout.end_marker("000000", len(units), sum(map(len, units)))
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
    return run


def row(index: int, status: str = "empty", detections: Detections | None = None) -> Row:
    return Row(
        f"{index}.jpg", "000000", index, "s3://b/in/part-0.tar", status, width=100, height=50,
        detections=detections or Detections.empty(),
    )  # fmt: skip


def export(run: Run, target: Path, **options: object) -> dict[str, list[dict[str, object]]]:
    export_coco(read_snapshot(run), str(target), **options)  # type: ignore[arg-type]
    return json.loads(target.read_text())  # type: ignore[no-any-return]


TWO = Detections.of([[10, 10, 30, 20], [11, 10, 30, 20], [50, 5, 60, 45]], [0.9, 0.8, 0.3], [3, 8, 8])


def test_a_run_without_detections_is_valid_coco(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[row(0)]])
    values = export(run, tmp_path / "coco.json")
    assert values["annotations"] == []
    assert len(COCO(str(tmp_path / "coco.json")).imgs) == 1


def test_boxes_become_xywh_and_scores_stay(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[row(0, "labeled", TWO)]])
    values = export(run, tmp_path / "coco.json")
    assert values["images"] == [{"id": 1, "file_name": "part-0.tar/0.jpg", "width": 100, "height": 50}]
    first = values["annotations"][0]
    assert first == {
        "id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0, "score": 0.9,
    }  # fmt: skip
    assert [c["id"] for c in values["categories"]] == [3, 8], "negatives are not categories of the export"


def test_image_ids_count_in_key_order_and_stay_when_images_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[row(0), row(1, "decode_error")], [row(2, "labeled", TWO)]])
    summary = export_coco(read_snapshot(run), str(tmp_path / "c.json"))
    values = json.loads((tmp_path / "c.json").read_text())
    assert [image["id"] for image in values["images"]] == [1, 3]
    assert {a["image_id"] for a in values["annotations"]} == {3}
    assert summary.left_out == {"decode_error": 1}
    assert (sum(summary.images.values()), summary.annotations) == (2, 3)


def test_thresholds_apply_per_category_and_keep_the_image(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[row(0, "labeled", TWO)]])
    values = export(run, tmp_path / "coco.json", thresholds=Thresholds(0.5, {3: 0.95}))
    assert [(a["category_id"], a["score"]) for a in values["annotations"]] == [(8, 0.8)]
    assert len(values["images"]) == 1


def test_suppression_across_categories_keeps_the_best(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [[row(0, "labeled", TWO)]])
    values = export(run, tmp_path / "coco.json", suppress_iou=0.5)
    assert [a["category_id"] for a in values["annotations"]] == [3, 8]
    assert [a["score"] for a in values["annotations"]] == [0.9, 0.3]


def test_a_thresholds_file_takes_names_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("default: 0.3\ncategories: {cat: 0.5, 8: 0.4}\n")
    assert read_thresholds(path, VOCABULARY) == Thresholds(0.3, {3: 0.5, 8: 0.4})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a mapping"),
        ("input: in\noutput: out\n", "unknown key input; a threshold file has default, categories, fitted_on and"),
        ("categores: {cat: 0.5}", "unknown key categores; did you mean categories\\?; a threshold file has"),
        ("categories: {catt: 0.5, dog: 3}", "2 problems"),
        ("default: yes", "1 problems"),
    ],
)
def test_a_bad_thresholds_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match=message):
        read_thresholds(path, VOCABULARY)

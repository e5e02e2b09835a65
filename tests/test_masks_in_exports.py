"""Masks of a run in exports, evaluation and its report."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from pycocotools.coco import COCO

from labeler.cli import main
from labeler.evaluation import evaluate_run
from labeler.labeling.unit import MASKS_LOST
from labeler.labels import detections_column
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.runs import Run, read_snapshot
from tests.label_runs import row, write_run
from tests.mask_parts import HEIGHT, WIDTH, Filling, filled
from tests.red_boxes import RED, red_run

BOXES = [[10, 10, 110, 60], [200, 100, 300, 200], [400, 300, 500, 400]]


def masked() -> Detections:
    """Three detections; the first two have masks, of all the box and of its left half."""
    found = Detections.of(BOXES, [0.9, 0.8, 0.3], [3, 8, 8])
    return found.with_masks([filled(BOXES[0]), filled([200, 100, 250, 200]), None])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    units = {(0, 0): [row(0, masked()), row(1), row(2, Detections.of(BOXES[:1], [0.5], [3]))]}
    return write_run(tmp_path / "run", units, fields={"masks": "d1"})


@pytest.mark.parametrize("to", ["coco", "lvis"])
def test_annotations_have_the_mask_and_its_area(run: Run, tmp_path: Path, to: str) -> None:
    assert main(["export", run.uri, "--to", to, "--output", str(tmp_path / "out.json"), "--suppress", "off"]) == 0
    found = COCO(str(tmp_path / "out.json"))
    notes = found.loadAnns(found.getAnnIds(imgIds=[1]))
    assert [note["area"] for note in notes] == [5000, 5000, 10000]
    assert [note["iscrowd"] for note in notes] == [0, 0, 0]
    assert [note["bbox"] for note in notes] == [[10, 10, 100, 50], [200, 100, 100, 100], [400, 300, 100, 100]]
    assert [note["score"] for note in notes] == [0.9, 0.8, 0.3]
    for note, mask in zip(notes[:2], masked().masks, strict=False):  # type: ignore[arg-type]
        assert isinstance(note["segmentation"]["counts"], str)
        assert found.annToMask(note).tolist() == mask.decode().tolist()
    assert "segmentation" not in notes[2]
    assert "segmentation" not in found.loadAnns(found.getAnnIds(imgIds=[3]))[0]


def test_a_threshold_takes_masks_along_with_their_boxes(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["export", run.uri, "--to", "coco", "--output", str(out), "--score-below", "0.85"]) == 0
    notes = [a for a in json.loads(out.read_text())["annotations"] if a["image_id"] == 1]
    assert [(note["score"], note["area"]) for note in notes] == [(0.8, 5000), (0.3, 10000)]
    assert pycocotools.mask.area(notes[0]["segmentation"]) == 5000


def test_tables_have_masks_as_the_run_has_them(run: Run, tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    assert main(["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]) == 0
    rows = pq.read_table(tmp_path / "out/boxes").to_pylist()
    assert [r["mask"] is None for r in rows] == [False, False, True, True]
    assert rows[1]["mask"] == {**filled([200, 100, 250, 200]).rle, "quality": 0.5}
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{tmp_path}/out/boxes/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded[0]["mask"]["size"] == [HEIGHT, WIDTH]


def test_formats_that_have_no_place_for_masks_make_none(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(value: Any) -> None:
        raise AssertionError("a mask was made")

    monkeypatch.setattr(detections_column, "_mask_of", refuse)
    assert main(["export", run.uri, "--to", "odvg", "--output", str(tmp_path / "odvg"), "--split", "a=0.5,b=0.5"]) == 0
    with pytest.raises(AssertionError, match="a mask was made"):
        main(["export", run.uri, "--to", "coco", "--output", str(tmp_path / "out.json")])


def test_webdataset_has_masks_beside_the_boxes_on_upright_images(tmp_path: Path) -> None:
    made = red_run(tmp_path, shards=1, segmenter=Filling())
    out = tmp_path / "out"
    assert main(["export", made.uri, "--to", "webdataset", "--output", str(out)]) == 0
    members = members_of(out)
    seen = 0
    for name, data in members.items():
        if not name.endswith(".json"):
            labels = json.loads(members[name.rpartition(".")[0] + ".json"])
            pixels = np.asarray(Image.open(io.BytesIO(data)))  # as stored: no EXIF is looked at
            inside = pycocotools.mask.decode(labels["masks"][0]).astype(bool)
            assert (np.abs(pixels[inside].astype(int) - RED).max(-1) < 60).all()
            assert inside.sum() == 20 * 32
            seen += 1
    assert seen == 9


def test_webdataset_without_masks_has_no_such_key(tmp_path: Path) -> None:
    assert main(["export", red_run(tmp_path).uri, "--to", "webdataset", "--output", str(tmp_path / "out")]) == 0
    labels = [json.loads(data) for name, data in members_of(tmp_path / "out").items() if name.endswith(".json")]
    assert len(labels) == 18
    assert not any("masks" in label for label in labels)


def members_of(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def truth(*, segmentation: bool) -> dict[str, Any]:
    """The objects of the first image; the second's mask is all of its box, of which the run has half."""
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 100, 50], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 8, "bbox": [200, 100, 100, 100], "iscrowd": 0},
    ]
    if segmentation:
        annotations[0]["segmentation"] = filled(BOXES[0]).json_rle
        annotations[1]["segmentation"] = filled(BOXES[1]).json_rle
    images = [{"id": i + 1, "file_name": f"part-0.tar/{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(3)]
    categories = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_masks_are_evaluated_and_those_without_one_are_said(run: Run) -> None:
    evaluation = evaluate_run(run.uri, truth(segmentation=True))
    boxes, masks = evaluation.scores
    assert (boxes.kind, masks.kind) == ("bbox", "segm")
    assert boxes.summary()["AP"] > 0.9
    assert masks.summary()["AP50"] == pytest.approx(1.0)  # half of the box is an IoU of 0.5
    assert masks.summary()["AP"] == pytest.approx((1.0 + 0.1) / 2, abs=0.01)
    assert (boxes.detections.sum(), masks.detections.sum()) == (4, 2)
    assert any("2 of 4 detections have none and count for boxes only" in note for note in evaluation.protocol["notes"])


def test_annotations_of_boxes_alone_are_evaluated_on_boxes(run: Run) -> None:
    assert [score.kind for score in evaluate_run(run.uri, truth(segmentation=False)).scores] == ["bbox"]


def test_the_command_evaluates_what_iou_asks_for(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, boxes = tmp_path / "both.json", tmp_path / "boxes.json"
    both.write_text(json.dumps(truth(segmentation=True)))
    boxes.write_text(json.dumps(truth(segmentation=False)))

    def kinds(annotations: Path, *options: str) -> list[str]:
        out = tmp_path / "evaluation.json"
        command = ["evaluate", run.uri, "--annotations", str(annotations), "--output", str(out), *options]
        assert main(command) == 0
        return [score["kind"] for score in json.loads(out.read_text())["scores"]]

    assert kinds(both) == kinds(both, "--iou", "segm") == ["bbox", "segm"]
    assert kinds(both, "--iou", "bbox") == kinds(boxes) == ["bbox"]
    capsys.readouterr()
    assert main(["evaluate", run.uri, "--annotations", str(boxes), "--iou", "segm"]) == 2
    assert "no `segmentation`" in capsys.readouterr().err
    plain = write_run(tmp_path / "plain", {(0, 0): [row(0)]})
    assert main(["evaluate", plain.uri, "--annotations", str(both), "--iou", "segm"]) == 2
    assert "label with a `masks` section" in capsys.readouterr().err


def test_a_report_counts_lost_masks_by_name(tmp_path: Path) -> None:
    from labeler.runs.report import build_report

    lost: Row = row(0, masked()[:0], error=None)
    named = row(1, Detections.of(BOXES[:1], [0.5], [3]), error=MASKS_LOST)
    made = write_run(tmp_path / "run", {(0, 0): [lost, named]}, fields={"masks": "d1"})
    report = build_report(read_snapshot(made))
    assert report.errors == {MASKS_LOST: 1}
    assert report.statuses == {"labeled": 1, "empty": 1}

"""Stored ground truth: a COCO file with its images or a run becomes training data, and what is wrong is named."""

from __future__ import annotations

import copy
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from training_parts import job_values, tiny_checkpoint

from labeler import checkpoints
from labeler.cli import main
from labeler.detectors.preprocess import Preprocessing
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.records import Row, rows_to_table, table_to_parquet
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import layout
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from labeler.training import stored_images
from labeler.training.annotations import read_coco
from labeler.training.examples import NoneReadable
from labeler.training.run_labels import read_run
from labeler.training.shapes import HELD_OUT, SEEN, write_data_set
from labeler.training.stored_images import Record, StoredSource
from labeler.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_data_set(str(folder), images=9, seed=2, images_per_shard=5, combinations=SEEN)
    return folder


@pytest.fixture(scope="module")
def preprocessing(tmp_path_factory: pytest.TempPathFactory) -> Preprocessing:
    return Preprocessing.of(checkpoints.resolve(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))))


def _read(annotations: Path, images: Path) -> list[Record]:
    return read_coco(str(annotations), str(images), Vocabulary.load(annotations))


def _coco(folder: Path, **changes: Any) -> Path:
    """One image of 100 x 50 with one box; `changes` replace lists."""
    image = {"id": 1, "file_name": "a.png", "width": 100, "height": 50}
    box = {"id": 7, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30], "iscrowd": 0}
    data = {"images": [image], "annotations": [box], "categories": [{"id": 3, "name": "cat"}], **changes}
    Image.new("RGB", (100, 50)).save(folder / "a.png")
    (folder / "gt.json").write_text(json.dumps(data))
    return folder / "gt.json"


def _box(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30], **changes}


def test_an_image_without_boxes_is_training_data(tmp_path: Path) -> None:
    (record,) = _read(_coco(tmp_path, annotations=[]), tmp_path)
    assert record.boxes_xyxy.shape == (0, 4)


def test_boxes_become_corners_and_crowds_are_left_out(tmp_path: Path) -> None:
    (record,) = _read(_coco(tmp_path, annotations=[_box(), _box(id=8, iscrowd=1)]), tmp_path)
    assert record.boxes_xyxy.tolist() == [[10, 10, 30, 40]]
    assert record.category_ids.tolist() == [3]


def test_an_image_is_found_by_any_spelling_of_its_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "bär/é.png") for form in ("NFC", "NFD"))
    (tmp_path / "in/bär").mkdir(parents=True)
    Image.new("RGB", (100, 50)).save(tmp_path / "in" / composed)
    for name in (composed, decomposed, decomposed.replace("/", "\\"), "other\\" + decomposed[-6:]):
        image = {"id": 1, "file_name": name, "width": 100, "height": 50}
        assert len(_read(_coco(tmp_path, images=[image]), tmp_path / "in")) == 1
    (tmp_path / "in" / decomposed).parent.mkdir(exist_ok=True)
    Image.new("RGB", (100, 50)).save(tmp_path / "in" / decomposed)
    with pytest.raises(Refused, match=r"image 1: could be 'b.* or 'b"):
        _read(_coco(tmp_path, images=[image | {"file_name": composed.replace("/", "\\")}]), tmp_path / "in")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [_box(bbox=[90, 10, 20, 30])]},
            r"annotations\[0\]: its box .* is outside image 1 .a.png., 100 x 50",
        ),
        ({"annotations": [_box(bbox=[10, -5, 20, 30])]}, "outside image 1"),
        ({"annotations": [_box(bbox=[10, 10, 0, 30])]}, "no area"),
        ({"annotations": [_box(bbox=[10, 10, float("nan"), 30])]}, "`bbox` must be"),
        ({"annotations": [_box(bbox=[10, 10])]}, "`bbox` must be"),
        ({"annotations": [_box(category_id=4)]}, r"annotations\[0\]: category_id 4 matches no category"),
        ({"annotations": [_box(image_id=5)]}, r"annotations\[0\]: image_id 5 matches no image"),
        ({"images": [], "annotations": []}, "no images in it"),
        ({"images": [{"id": 1, "file_name": "b.png", "width": 9, "height": 9}], "annotations": []}, "b.png. is not in"),
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "image 1 .a.png. has no `width` and `height`"),
        ({"images": {}}, r"images\[0\]: `id` must be"),
    ],
)
def test_a_bad_annotation_is_named_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        _read(_coco(tmp_path, **changes), tmp_path)
    assert "\n" not in str(refused.value)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    bad = [_box(id=i, bbox=[10, 10, 0, 0]) for i in range(30)]
    with pytest.raises(Refused, match="30 problems") as refused:
        _read(_coco(tmp_path, annotations=bad), tmp_path)
    assert refused.value.problems[0].startswith("annotations[0]: its box")
    assert refused.value.problems[-1] == "and 10 more"


def test_the_job_ends_with_2_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = _coco(tmp_path, annotations=[_box(bbox=[0, 0, 500, 500])])
    config = tmp_path / "train.yaml"
    data = {"annotations": str(annotations), "images": str(tmp_path)}
    config.write_text(yaml.safe_dump(job_values(tmp_path / "out", data=data)))
    assert main(["train", str(config)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_are_found_in_tars_and_the_boxes_fit_them(shapes: Path, preprocessing: Preprocessing) -> None:
    records = _read(shapes / "annotations.json", shapes / "shards")
    assert [r.name for r in records[:2]] == ["shapes-000000.tar/000000.jpg", "shapes-000000.tar/000001.jpg"]
    source = StoredSource(records, preprocessing, seed=0)
    example = source.batch(0, 1, slice(0, 1))[0]
    assert min(example.pixels.shape[:2]) == 80
    assert (example.boxes[:, :2] - example.boxes[:, 2:] / 2 >= -1e-6).all()


def test_an_epoch_shows_every_image_and_batches_have_one_shape(shapes: Path, preprocessing: Preprocessing) -> None:
    records = _read(shapes / "annotations.json", shapes / "shards")
    source = StoredSource(records, preprocessing, seed=0)
    steps = sum(-(-len(found) // 2) for found in source._shapes.values())
    seen = [source._batch_indices(step, 2) for step in range(steps)]
    assert {int(i) for _, indices in seen for i in indices} == set(range(9))
    again = [source._batch_indices(step, 2) for step in range(steps, 2 * steps)]
    assert [i.tolist() for _, i in seen] != [i.tolist() for _, i in again]
    for step in range(3):
        assert len({e.pixels.shape for e in source.batch(step, 2, slice(0, 2))}) == 1


def test_buckets_bring_photographs_of_odd_shapes_together(preprocessing: Preprocessing) -> None:
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    records = [Record(str(i), None, 100 + i, 90, *empty) for i in range(8)]  # type: ignore[arg-type]
    assert len(StoredSource(records, preprocessing, seed=0)._shapes) > 4
    assert len(StoredSource(records, preprocessing, seed=0, bucket_px=32)._shapes) == 1


def test_a_broken_image_is_replaced_and_said(
    tmp_path: Path, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = _coco(tmp_path, images=[
        {"id": i, "file_name": f"{name}.png", "width": 100, "height": 50} for i, name in enumerate("ab", 1)
    ])  # fmt: skip
    (tmp_path / "b.png").write_bytes(b"no image")
    source = StoredSource(_read(annotations, tmp_path), preprocessing, seed=0)
    said: list[str] = []
    monkeypatch.setattr(stored_images.log, "warning", lambda message, *values: said.append(message % values))
    assert len(source.batch(0, 2, slice(0, 2))) == 2
    assert any("b.png is excluded from training" in line for line in said)


def test_a_batch_without_a_readable_image_says_so(tmp_path: Path, preprocessing: Preprocessing) -> None:
    records = _read(_coco(tmp_path), tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    source = StoredSource(records, preprocessing, seed=0)
    for _ in range(2):
        with pytest.raises(NoneReadable) as caught:
            source.batch(0, 1, slice(0, 1))
        assert caught.value.names == ("a.png",)


def _run_over(shapes: Path, folder: Path, scores: list[float]) -> Path:
    """A run whose first image has detections with these scores, and whose second could not be decoded."""
    tar = shapes / "shards" / "shapes-000000.tar"
    truth = _read(shapes / "annotations.json", shapes / "shards")
    boxes = np.tile(truth[0].boxes_xyxy[:1], (len(scores), 1))
    found = Detections.of(boxes, scores, [SEEN[0].category_id] * len(scores))
    vocabulary = Vocabulary.load([{"id": c.category_id, "name": c.name} for c in SEEN[:3]])
    plan = [PlannedShard(Shard("000000", str(tar), 10, "e", "webdataset"), 2)]
    config = {"model": {"name": "m"}, "input": {"keep": []}}
    create_run(str(folder), NewRun({}, config, {}, vocabulary, Prompts((), frozenset(), 256), plan))
    place = {"uri": str(tar), "offset": truth[0].location.offset, "length": truth[0].location.length}
    size = {"width": truth[0].width, "height": truth[0].height}
    rows = [
        Row("000000.jpg", "000000", 0, status="labeled", detections=found, **place, **size),  # type: ignore[arg-type]
        Row("000001.jpg", "000000", 1, status="decode_error", **place),  # type: ignore[arg-type]
    ]
    unit = folder / layout.unit_file("000000", 0)
    unit.parent.mkdir(parents=True)
    unit.write_bytes(table_to_parquet(rows_to_table(rows), {}))
    return folder


def test_a_run_s_labels_above_the_threshold_are_ground_truth(shapes: Path, tmp_path: Path) -> None:
    run = _run_over(shapes, tmp_path / "run", [0.9, 0.2])
    records, vocabulary = read_run(str(run), score_threshold=0.3)
    assert [r.name for r in records] == ["000000.jpg"]
    assert len(records[0].boxes_xyxy) == 1
    assert len(vocabulary) == 3
    assert records[0].location.read()[:2] == b"\xff\xd8"


def test_a_vocabulary_given_beside_a_run_is_matched_by_name(shapes: Path, tmp_path: Path) -> None:
    run = str(_run_over(shapes, tmp_path / "run", [0.9]))
    given = Vocabulary.load([SEEN[1].name, SEEN[0].name.upper()])
    records, vocabulary = read_run(run, score_threshold=0.3, vocabulary=given)
    assert vocabulary is given
    assert records[0].category_ids.tolist() == [2]
    other = Vocabulary.load([SEEN[1].name])
    with pytest.raises(Refused, match=f'"{SEEN[0].name}" is not in the vocabulary'):
        read_run(run, score_threshold=0.3, vocabulary=other)
    records, _ = read_run(run, score_threshold=0.3, vocabulary=other, partial=True)
    assert len(records[0].boxes_xyxy) == 0


def test_training_on_a_run_and_on_a_coco_file_works_to_the_end(shapes: Path, tmp_path: Path) -> None:
    run = _run_over(shapes, tmp_path / "run", [0.9])
    coco = {"annotations": str(shapes / "annotations.json"), "images": str(shapes / "shards")}
    start = {"name": str(tiny_checkpoint(tmp_path / "start"))}
    for number, data in enumerate([{"run": str(run)}, {**coco, "flip": 0.5}]):
        config = tmp_path / f"{number}.yaml"
        validation = {"steps": 2, **coco, "limit": 2}
        train = {"steps": 2, "batch_size": 2, "loaders": 0, "threads": 1}
        output = tmp_path / f"out{number}"
        values = job_values(output, data=data, model=start, train=train, validation=validation)
        config.write_text(yaml.safe_dump(values))
        assert main(["train", str(config)]) == 0
        assert "ap_all" in (output / "log.jsonl").read_text()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no run"):
        read_run(str(tmp_path), score_threshold=0.3)


def test_excluded_categories_are_neither_boxes_nor_asked_for(shapes: Path, tmp_path: Path) -> None:
    from labeler.training.config import make_training_job
    from labeler.training.job import prepare

    names = [c.name for c in SEEN[:60]]
    coco = {"annotations": str(shapes / "annotations.json"), "images": str(shapes / "shards")}
    model = {"name": str(tiny_checkpoint(tmp_path / "start"))}
    values = job_values(tmp_path / "out", model=model, data={**coco, "exclude": [*names, HELD_OUT[0].name]})
    prepared = prepare(make_training_job(values), tmp_path)
    excluded = {c.category_id for c in SEEN[:60]}
    assert not excluded & set(prepared.sampler.category_ids.tolist())
    examples = prepared.source.batch(0, 4, slice(0, 4))
    assert not excluded & {int(i) for e in examples for i in e.category_ids}
    wrong = copy.deepcopy(values)
    wrong["data"]["exclude"] = ["red cirkle"]
    with pytest.raises(Refused, match="no category called red cirkle"):
        prepare(make_training_job(wrong), tmp_path)

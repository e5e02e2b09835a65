"""A run against ground truth: who is matched with whom, what is refused, what is said, what is written."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from labeler.boxes import xyxy_to_xywh
from labeler.commands import evaluate
from labeler.detections import Detections
from labeler.errors import Refused
from labeler.evaluation import Evaluation, evaluate_results, evaluate_run
from labeler.exports.coco import export_coco
from labeler.prompts import Prompts
from labeler.records import MASK, Row, rows_to_table, table_to_parquet
from labeler.runs import layout, open_run, read_plan, read_progress
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from labeler.vocabulary import Vocabulary
from tests.evaluation_scenes import rectangle

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "sky", "negative": True}]
DETECT = {"score_floor": 0.05, "max_detections": 300, "assignment": "argmax", "score": "mean", "nms_iou": 0.7}
FIXED = {"assignment": "flattened", "max_detections": 0}
SHARDS = ("s3://b/in/part-0.tar", "s3://b/in/part-1.tar")


def row(shard: int, index: int, detections: Detections | None = None, **values: Any) -> Row:
    found = detections or Detections.empty()
    status = "labeled" if len(found) else "empty"
    plain = Row(f"{index}.jpg", f"{shard:06d}", index, SHARDS[0], status, width=400, height=400, detections=found)
    return replace(plain, **values)


def write_run(
    folder: Path,
    units: Mapping[tuple[int, int], Sequence[Row]],
    *,
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
    detect: Mapping[str, Any] | None = None,
    uris: Sequence[str] = SHARDS,
    format: Any = "webdataset",
    unfinished: Sequence[int] = (),
    masks: bool = False,
) -> str:
    """A run with these rows by (shard, unit), written through the real writer; returns its folder."""
    plan = [PlannedShard(Shard(f"{i:06d}", uri, 10, "e", format), None) for i, uri in enumerate(uris)]
    config = {"model": {"name": "tiny"}, "input": {"keep": []}, "detect": DETECT | dict(detect or {})}
    vocabulary = Vocabulary.load(categories)
    prompts = Prompts((), vocabulary.negative_ids, 256)
    create_run(str(folder), NewRun({"masks": "box" if masks else None}, config, {}, vocabulary, prompts, plan))
    for (shard, number), rows in units.items():
        path = folder / layout.unit_file(f"{shard:06d}", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rows_to_table(rows)
        path.write_bytes(table_to_parquet(add_masks(table) if masks else table, {}))
    for shard in set(range(len(uris))) - set(unfinished):
        mine = {unit: rows for unit, rows in units.items() if unit[0] == shard}
        marker = folder / layout.end_marker(f"{shard:06d}", len(mine), sum(map(len, mine.values())))
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
    return str(folder)


def add_masks(table: pa.Table) -> pa.Table:
    """The same rows with each box filled as its mask."""
    column = table["detections"].combine_chunks()
    values = column.values
    boxes = np.stack([values.field(side).to_numpy() for side in ("x_min", "y_min", "x_max", "y_max")], 1)
    masks = [rectangle([float(v) for v in box]) for box in xyxy_to_xywh(boxes)]
    filled = pa.array([{"size": m["size"], "counts": m["counts"].encode()} for m in masks], MASK)
    fields = list(column.type.value_type)
    parts = [values.field(f.name) if f.name != "mask" else filled for f in fields]
    rebuilt = pa.ListArray.from_arrays(
        column.offsets, pa.StructArray.from_arrays(parts, fields=fields), type=column.type
    )
    return table.set_column(table.schema.names.index("detections"), table.schema.field("detections"), rebuilt)


CAT = Detections.of([[10, 10, 60, 60]], [0.9], [3])
BOTH = Detections.of([[10, 10, 60, 60], [100, 100, 250, 300]], [0.9, 0.6], [3, 8])
UNITS = {(0, 0): [row(0, 0, CAT), row(0, 1)], (0, 1): [row(0, 2, BOTH)], (1, 0): [row(1, 0, BOTH)]}


def truth_of(run_uri: str, folder: Path) -> dict[str, Any]:
    """The run's own export: ground truth that the run reaches perfectly."""
    run = open_run(run_uri)
    assert run is not None
    export_coco(run, read_plan(run), read_progress(run), str(folder / "gt.json"))
    values: dict[str, Any] = json.loads((folder / "gt.json").read_text())
    return values


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    return write_run(tmp_path / "run", UNITS)


@pytest.fixture
def truth(run_uri: str, tmp_path: Path) -> dict[str, Any]:
    return truth_of(run_uri, tmp_path)


def ap(evaluation: Evaluation) -> float | None:
    return evaluation.scores[0].summary()["AP"]


def test_a_run_without_detections_has_an_ap_of_zero(tmp_path: Path, truth: dict[str, Any]) -> None:
    empty = write_run(tmp_path / "empty", {(0, 0): [row(0, i) for i in range(3)], (1, 0): [row(1, 0)]})
    evaluation = evaluate_run(empty, truth)
    assert ap(evaluation) == 0.0
    assert evaluation.score("COCO") is evaluation.scores[0]


def test_a_run_is_perfect_against_its_own_export(run_uri: str, truth: dict[str, Any]) -> None:
    evaluation = evaluate_run(run_uri, truth)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.truth.objects_by_category().tolist() == [3, 2]
    best = evaluation.to_dict()["operating_points"][0]["micro_best_f1"]
    assert best == {"threshold": 0.05, "precision": 1.0, "recall": 1.0, "f1": 1.0, "detections": 5}


def test_a_run_scores_as_its_export_does_as_a_results_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> Detections:
        corners = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(20, 180, (count, 2))], 1).round(1)
        return Detections.of(boxes, rng.random(count).round(3), rng.choice([3, 8], count))

    units = {(s, u): [row(s, 4 * u + i, some(9)) for i in range(4)] for s in (0, 1) for u in (0, 1)}
    uri = write_run(tmp_path / "run", units)
    exported = truth_of(uri, tmp_path)
    truth = copy.deepcopy(exported)
    truth["annotations"] = [a for a in truth["annotations"] if a["score"] > 0.5]  # "truth": what it was sure of
    for annotation in truth["annotations"]:
        annotation["bbox"][0] += float(rng.normal(0, 15))
    results = evaluate_results(exported["annotations"], truth).scores[0].summary()
    assert evaluate_run(uri, truth).scores[0].summary() == pytest.approx(results, abs=1e-9)
    assert 0.1 < (results["AP"] or 0) < 0.9


def test_images_match_by_their_unique_last_part(run_uri: str, truth: dict[str, Any]) -> None:
    truth["images"] = [i for i in truth["images"] if "part-0" in i["file_name"]]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in {i["id"] for i in truth["images"]}]
    for image in truth["images"]:
        image["file_name"] = image["file_name"].rpartition("/")[2]
    # 0.jpg is in both tars; 1.jpg and 2.jpg are unique
    with pytest.raises(Refused, match="1 images of annotations annotations could be several"):
        evaluate_run(run_uri, truth)
    truth["images"] = [i for i in truth["images"] if i["file_name"] != "0.jpg"]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in {i["id"] for i in truth["images"]}]
    assert ap(evaluate_run(run_uri, truth)) == pytest.approx(1.0)


def test_the_whole_name_decides_before_the_last_part(run_uri: str, truth: dict[str, Any]) -> None:
    truth["images"] = [i for i in truth["images"] if i["file_name"] == "part-0.tar/0.jpg"]  # both tars have a 0.jpg
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == truth["images"][0]["id"]]
    evaluation = evaluate_run(run_uri, truth)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.scores[0].detections.tolist() == [1, 0]


def test_a_failed_image_is_not_replaced_by_another_with_the_same_last_part(
    tmp_path: Path, truth: dict[str, Any]
) -> None:
    failed = {**UNITS, (0, 0): [row(0, 0, status="read_error", width=None, height=None), row(0, 1)]}
    truth["images"] = [i for i in truth["images"] if i["file_name"] == "part-0.tar/0.jpg"]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == truth["images"][0]["id"]]
    evaluation = evaluate_run(write_run(tmp_path / "failed", failed), truth)
    assert evaluation.protocol["images"]["failed"] == {"read_error": 1}
    assert ap(evaluation) == 0.0


def test_folders_of_images_match_by_their_path(tmp_path: Path) -> None:
    units = {(0, 0): [row(0, 0, CAT, image_key="val/0.jpg"), row(0, 1, image_key="train/0.jpg")]}
    uri = write_run(tmp_path / "run", units, uris=["s3://b/in"], format="images")
    truth = truth_of(uri, tmp_path)
    assert [i["file_name"] for i in truth["images"]] == ["val/0.jpg", "train/0.jpg"]
    assert ap(evaluate_run(uri, truth)) == pytest.approx(1.0)


def test_annotations_of_other_images_are_refused_in_one_line(run_uri: str, truth: dict[str, Any]) -> None:
    for image in truth["images"]:
        image["file_name"] = f"other-{image['id']}.jpg"
    with pytest.raises(Refused, match=r'are for other images \(such as "other-1\.jpg"\): none is in run') as caught:
        evaluate_run(run_uri, truth, partial=True)
    assert caught.value.problems == ()


def test_images_that_the_run_does_not_have_are_refused_or_left_out(run_uri: str, truth: dict[str, Any]) -> None:
    truth["images"].append({"id": 99, "file_name": "far.jpg", "width": 9, "height": 9})
    truth["annotations"].append({**truth["annotations"][0], "id": 99, "image_id": 99})
    with pytest.raises(Refused, match=r"1 of 5 images .* are not in run \w+ \(far.jpg\); --partial"):
        evaluate_run(run_uri, truth)
    evaluation = evaluate_run(run_uri, truth, partial=True)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.protocol["images"]["missing"] == 1
    assert "1 annotated images are not in the run: left out" in "\n".join(evaluation.lines())


def test_an_incomplete_run_is_named_as_the_reason(tmp_path: Path, truth: dict[str, Any]) -> None:
    part = {unit: rows for unit, rows in UNITS.items() if unit[0] == 0}
    uri = write_run(tmp_path / "part", part, unfinished=[1])
    with pytest.raises(Refused, match="the run is incomplete: finish it"):
        evaluate_run(uri, truth)
    evaluation = evaluate_run(uri, truth, partial=True)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.protocol["images"]["run_complete"] is False


def test_failed_images_count_as_images_without_detections(tmp_path: Path, truth: dict[str, Any]) -> None:
    failed = {**UNITS, (1, 0): [row(1, 0, status="decode_error", width=None, height=None)]}
    evaluation = evaluate_run(write_run(tmp_path / "failed", failed), truth)
    assert evaluation.protocol["images"]["failed"] == {"decode_error": 1}
    assert evaluation.truth.objects_by_category().tolist() == [3, 2]
    assert (ap(evaluation) or 1) < 0.7  # one of three cats and one of two dogs are missed
    assert "decode_error 1: these count as images without detections" in "\n".join(evaluation.lines())


def test_a_repeated_member_does_not_hide_the_labeled_one(tmp_path: Path, truth: dict[str, Any]) -> None:
    again = row(0, 3, image_key="0.jpg", status="read_error", width=None, height=None)
    evaluation = evaluate_run(write_run(tmp_path / "again", {**UNITS, (0, 2): [again]}), truth)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.protocol["images"]["failed"] == {}


def test_images_that_are_not_annotated_are_left_out_and_counted(run_uri: str, truth: dict[str, Any]) -> None:
    kept = truth["images"][0]["id"]
    truth["images"] = truth["images"][:1]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == kept]
    evaluation = evaluate_run(run_uri, truth)
    assert ap(evaluation) == pytest.approx(1.0)
    assert evaluation.protocol["images"]["not_annotated"] == 3
    assert evaluation.scores[0].detections.sum() == 1


def test_units_without_annotated_images_are_not_read_again(
    run_uri: str, truth: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.runs import rows

    truth["images"] = [i for i in truth["images"] if i["file_name"] == "part-1.tar/0.jpg"]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == truth["images"][0]["id"]]
    read: list[str] = []
    real = rows.parquet_to_table

    def spy(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
        if columns and "detections" in columns:
            read.append("unit")
        return real(data, columns)

    monkeypatch.setattr(rows, "parquet_to_table", spy)
    assert ap(evaluate_run(run_uri, truth)) == pytest.approx(1.0)
    assert read == ["unit"]


def test_another_size_than_in_the_annotations_is_said(run_uri: str, truth: dict[str, Any]) -> None:
    truth["images"][1] |= {"width": 200, "height": 100}
    evaluation = evaluate_run(run_uri, truth)
    assert evaluation.protocol["images"]["resized_examples"] == ["part-0.tar/1.jpg"]
    assert "1 images have another size" in "\n".join(evaluation.lines())


def test_two_images_of_one_name_are_refused(run_uri: str, truth: dict[str, Any]) -> None:
    truth["images"][1]["file_name"] = truth["images"][0]["file_name"]
    with pytest.raises(Refused, match=r'two images have the file_name "part-0\.tar/0\.jpg"'):
        evaluate_run(run_uri, truth)


def test_what_is_no_run_is_refused(tmp_path: Path, truth: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="is no run"):
        evaluate_run(str(tmp_path), truth)


@pytest.mark.parametrize(
    ("categories", "problem"),
    [
        ([{"id": 3, "name": "cow"}, {"id": 8, "name": "dog"}], 'id 3 is "cat" in the annotations and "cow" in the run'),
        ([{"id": 8, "name": "cat"}, {"id": 3, "name": "dog"}], '"cat" has id 3 in the annotations and 8 in the run'),
        ([{"id": 5, "name": "cats"}, {"id": 8, "name": "dog"}], 'id 3 "cat" is not in the run; the nearest is "cats"'),
    ],
)
def test_categories_that_do_not_match_are_refused_one_by_one(
    tmp_path: Path, truth: dict[str, Any], categories: list[dict[str, Any]], problem: str
) -> None:
    uri = write_run(tmp_path / "other", UNITS, categories=categories)
    with pytest.raises(Refused, match="categories are not those of annotations") as caught:
        evaluate_run(uri, truth)
    assert problem in caught.value.problems


def test_categories_match_by_name_alone_on_request(tmp_path: Path, truth: dict[str, Any]) -> None:
    swapped = write_run(tmp_path / "swapped", UNITS, categories=[{"id": 8, "name": "Cat"}, {"id": 3, "name": "dog"}])
    assert ap(evaluate_run(swapped, truth, by_name=True)) == 0.0  # what it calls dog is the cat
    renumbered = {**truth, "categories": [{"id": 30, "name": "cat"}, {"id": 80, "name": "dog"}]}
    renumbered["annotations"] = [a | {"category_id": 10 * a["category_id"]} for a in truth["annotations"]]
    original = write_run(tmp_path / "original", UNITS)
    assert ap(evaluate_run(original, renumbered, by_name=True)) == pytest.approx(1.0)


def test_categories_the_run_did_not_look_for_are_left_out_with_partial(tmp_path: Path, truth: dict[str, Any]) -> None:
    truth["categories"].append({"id": 20, "name": "sheep"})
    uri = write_run(tmp_path / "same", UNITS)
    assert evaluate_run(uri, truth).protocol["categories"]["missing"] == []  # no sheep anywhere: nothing is missing
    truth["annotations"].append({**truth["annotations"][0], "id": 50, "category_id": 20})
    with pytest.raises(Refused, match="--partial"):
        evaluate_run(uri, truth)
    evaluation = evaluate_run(uri, truth, partial=True, groups={"farm": ["sheep", "dog"]})
    assert evaluation.protocol["categories"] == {"missing": ["sheep"], "missing_objects": 1, "not_annotated": []}
    assert [evaluation.truth.categories[place].name for place in evaluation.groups["farm"]] == ["dog"]
    assert ap(evaluation) == pytest.approx(1.0)


def test_categories_that_are_not_annotated_are_left_out_and_said(run_uri: str, truth: dict[str, Any]) -> None:
    truth["categories"] = truth["categories"][:1]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 3]
    evaluation = evaluate_run(run_uri, truth)
    assert evaluation.protocol["categories"]["not_annotated"] == ["dog"]
    assert evaluation.scores[0].detections.tolist() == [3]


def test_groups_have_their_own_ap(tmp_path: Path, truth: dict[str, Any]) -> None:
    no_dogs = {unit: [replace(r, detections=r.detections[:1]) for r in rows] for unit, rows in UNITS.items()}
    evaluation = evaluate_run(write_run(tmp_path / "cats", no_dogs), truth, groups={"seen": ["cat"], "held out": [8]})
    groups = evaluation.to_dict()["scores"][0]["groups"]
    assert (groups["seen"]["AP"], groups["held out"]["AP"]) == (pytest.approx(1.0), 0.0)
    assert groups["held out"] | {"categories": 1, "categories_with_objects": 1, "objects": 2} == groups["held out"]
    assert ap(evaluation) == pytest.approx(0.5)


def federated(truth: dict[str, Any]) -> dict[str, Any]:
    for image in truth["images"]:
        image |= {"neg_category_ids": [8], "not_exhaustive_category_ids": []}
    return truth


def test_fixed_ap_of_a_capped_argmax_run_is_refused_with_the_reasons(run_uri: str, truth: dict[str, Any]) -> None:
    evaluation = evaluate_run(run_uri, federated(truth))
    assert [one.rules.name for one in evaluation.scores] == ["LVIS"]
    reason = evaluation.refused["LVIS Fixed AP"]
    assert "detect.assignment=argmax" in reason
    assert "detect.max_detections=300" in reason
    assert f"LVIS Fixed AP: refused: {reason}" in evaluation.lines()
    with pytest.raises(Refused, match=r"Fixed AP cannot be measured: detect\.assignment=argmax"):
        evaluate_run(run_uri, truth, fixed_ap=True)


@pytest.mark.parametrize("change", [{"assignment": "flattened"}, {"max_detections": 0}])
def test_either_alone_is_enough_to_refuse_fixed_ap(tmp_path: Path, truth: dict[str, Any], change: Any) -> None:
    uri = write_run(tmp_path / "half", UNITS, detect=change)
    assert list(evaluate_run(uri, federated(truth)).refused) == ["LVIS Fixed AP"]


def test_a_flattened_uncapped_run_has_both(tmp_path: Path, truth: dict[str, Any]) -> None:
    uri = write_run(tmp_path / "flat", UNITS, detect=FIXED)
    evaluation = evaluate_run(uri, federated(truth), fixed_ap=True)
    assert [one.summary()["AP"] for one in evaluation.scores] == pytest.approx([1.0, 1.0])
    assert evaluation.refused == {}
    assert "2 of 2 categories have fewer" in "\n".join(evaluation.lines())


def test_fixed_ap_on_coco_annotations_is_refused(tmp_path: Path, truth: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="not federated"):
        evaluate_run(write_run(tmp_path / "flat", UNITS, detect=FIXED), truth, fixed_ap=True)


def test_masks_are_evaluated_when_the_run_has_them(tmp_path: Path) -> None:
    uri = write_run(tmp_path / "masks", UNITS, masks=True)
    truth = truth_of(uri, tmp_path)
    for annotation in truth["annotations"]:
        annotation["segmentation"] = rectangle(annotation["bbox"])
    evaluation = evaluate_run(uri, truth)
    assert [(s.kind, s.summary()["AP"]) for s in evaluation.scores] == [("bbox", 1.0), ("segm", 1.0)]
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = rectangle([x, y, width / 4, height])
    evaluation = evaluate_run(uri, truth)
    assert [s.summary()["AP"] for s in evaluation.scores] == [1.0, 0.0]
    assert len(evaluation.to_dict()["operating_points"]) == 2


def test_a_run_without_masks_cannot_be_asked_for_them(run_uri: str, truth: dict[str, Any]) -> None:
    for annotation in truth["annotations"]:
        annotation["segmentation"] = rectangle(annotation["bbox"])
    with pytest.raises(Refused, match="have no mask"):
        evaluate_run(run_uri, truth, masks=True)


def test_the_protocol_says_how_the_numbers_were_reached(run_uri: str, truth: dict[str, Any]) -> None:
    evaluation = evaluate_run(run_uri, truth)
    decoding = evaluation.protocol["decoding"]
    assert decoding | DETECT == decoding
    text = "\n".join(evaluation.lines())
    for words in ("argmax", "score floor 0.05", "at most 300 an image", "NMS 0.7", "4 images", "pycocotools"):
        assert words in text


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add(parser.add_subparsers())
    parsed = parser.parse_args(["evaluate", *arguments])
    code: int = parsed.run(parsed)
    return code


def test_the_command_prints_and_writes_beside_the_run(
    run_uri: str, truth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "groups.yaml").write_text("pets: [cat, dog]\n")
    assert command(run_uri, "--annotations", str(tmp_path / "gt.json"), "--groups", str(tmp_path / "groups.yaml")) == 0
    printed = capsys.readouterr().out
    assert "COCO, boxes             AP 1.000" in printed
    assert "pets" in printed
    written = json.loads((Path(run_uri) / "evaluation.json").read_text())
    assert written == json.loads(
        json.dumps(evaluate_run(run_uri, tmp_path / "gt.json", groups={"pets": [3, 8]}).to_dict())
    )
    assert written["scores"][0]["categories"][0]["name"] == "cat"


def test_the_command_takes_a_results_file_and_another_output(
    run_uri: str, truth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(truth["annotations"]))
    arguments = [str(tmp_path / "results.json"), "--annotations", str(tmp_path / "gt.json")]
    assert command(*arguments, "--output", str(tmp_path / "out.json")) == 0
    assert json.loads((tmp_path / "out.json").read_text())["scores"][0]["AP"] == pytest.approx(1.0)
    assert "floor, cap and assignment unknown" in capsys.readouterr().out
    with pytest.raises(Refused, match="are for runs"):
        command(*arguments, "--partial")


@pytest.mark.parametrize(
    "text", ["[1]", "{}", "[", '[{"image_id": 1}]', '[{"image_id": 77, "category_id": 1, "score": 1}]']
)
def test_a_bad_results_file_is_refused(truth: dict[str, Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(Refused, match="results"):
        evaluate_results(tmp_path / "results.json", truth)

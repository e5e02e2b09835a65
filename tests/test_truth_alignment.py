"""Images and categories of the annotations are matched with the run's, and the others are reported."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation import evaluate_run
from labeler.labels.records import BOXES
from tests.evaluation_runs import CAT, UNITS, ap, row, truth_of, write_run


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


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "bär/é.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED, COMPOSED.replace("/", "\\")])
@pytest.mark.parametrize("annotated", [COMPOSED, DECOMPOSED, DECOMPOSED.replace("/", "\\"), "é.jpg", "zoo\\é.jpg"])
def test_images_match_in_any_spelling_of_their_name(tmp_path: Path, stored: str, annotated: str) -> None:
    uri = write_run(tmp_path / "run", {(0, 0): [row(0, 0, CAT, image_key=stored)]}, uris=["s3://b/in"], format="images")
    truth = truth_of(uri, tmp_path)
    truth["images"][0]["file_name"] = annotated
    assert ap(evaluate_run(uri, truth)) == pytest.approx(1.0)


def test_the_very_spelling_decides_before_another_and_a_third_is_refused_with_both_names(tmp_path: Path) -> None:
    rows = [row(0, 0, CAT, image_key=COMPOSED), row(0, 1, image_key=DECOMPOSED)]
    uri = write_run(tmp_path / "run", {(0, 0): rows}, uris=["s3://b/in"], format="images")
    truth = truth_of(uri, tmp_path)
    assert ap(evaluate_run(uri, truth)) == pytest.approx(1.0)
    odd = [row(0, 0, CAT, image_key=COMPOSED.replace("/", "\\"))]
    other = write_run(tmp_path / "other", {(0, 0): odd}, uris=["s3://b/in"], format="images")
    with pytest.raises(Refused, match="differ only in how they are spelled") as refused:
        evaluate_run(other, truth)
    (problem,) = refused.value.problems
    assert ascii(COMPOSED) in problem
    assert ascii(DECOMPOSED) in problem


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
    assert "1 annotated images are not in the run: excluded" in "\n".join(evaluation.lines())


def test_an_unfinished_run_is_refused_or_evaluated_in_part(
    tmp_path: Path, truth: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    part = {unit: rows for unit, rows in UNITS.items() if unit[0] == 0}
    uri = write_run(tmp_path / "part", part, unfinished=[1])
    there = truth | {"images": truth["images"][:1], "annotations": truth["annotations"][:1]}
    (tmp_path / "there.json").write_text(json.dumps(there))
    assert main(["evaluate", uri, "--annotations", str(tmp_path / "there.json")]) == 2, "also if all images are there"
    (line,) = capsys.readouterr().err.splitlines()
    assert "is incomplete (1 of 2 shards unfinished); resume it with the label command, or evaluate" in line
    assert main(["evaluate", uri, "--annotations", str(tmp_path / "there.json"), "--partial"]) == 0
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
        if columns and {"detections", BOXES} & {*columns}:
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
    with pytest.raises(Refused, match="is not a labeler run"):
        evaluate_run(str(tmp_path), truth)


@pytest.mark.parametrize(
    ("categories", "problem"),
    [
        ([{"id": 3, "name": "cow"}, {"id": 8, "name": "dog"}], 'id 3 is "cat" in the annotations and "cow" in the run'),
        ([{"id": 8, "name": "cat"}, {"id": 3, "name": "dog"}], '"cat" has id 3 in the annotations and 8 in the run'),
        ([{"id": 5, "name": "cats"}, {"id": 8, "name": "dog"}], 'id 3 "cat" is not in the run; did you mean cats?'),
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

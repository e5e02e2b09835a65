"""Annotation files: read member by member, checked, and named by their place when they are wrong."""

from __future__ import annotations

import copy
import json
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import Refused
from labeler.evaluation import read_ground_truth
from labeler.evaluation.groups import read_groups
from tests.evaluation_scenes import make_federated, make_truth

ONE: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a/7.jpg", "height": 50, "width": 60}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 5}],
}


def changed(member: str, /, **values: Any) -> dict[str, Any]:
    truth = copy.deepcopy(ONE)
    truth[member][0] |= values
    return truth


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": [1, 2', '{"a": 1', '{"a" 1}', '{"a": [1 2]}', "no json", '{"a": 1,}', "{} {}"]
)
def test_what_is_no_whole_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gt.json"
    path.write_text(text)
    with pytest.raises(Refused, match=r"gt\.json are not a JSON object"):
        read_ground_truth(path)


def test_a_file_and_its_parsed_content_are_the_same(tmp_path: Path) -> None:
    truth = make_federated(0)
    (tmp_path / "gt.json").write_text(json.dumps(truth), encoding="utf-8-sig")
    one, other = read_ground_truth(tmp_path / "gt.json", masks=True), read_ground_truth(truth, masks=True)
    assert one.file_names == other.file_names
    for name in ("image_ids", "image", "category", "boxes_xywh", "areas", "crowd", "ignore", "sizes", "masks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.federated is not None
    assert other.federated is not None
    np.testing.assert_array_equal(one.federated.negative, other.federated.negative)


def test_images_and_categories_are_in_id_order_and_objects_point_at_them() -> None:
    truth = make_truth(1)
    parsed = read_ground_truth(truth)
    assert parsed.image_ids.tolist() == sorted(i["id"] for i in truth["images"])
    ids = [parsed.categories[place].id for place in parsed.category]
    assert ids == [a["category_id"] for a in truth["annotations"]]
    assert parsed.image_ids[parsed.image].tolist() == [a["image_id"] for a in truth["annotations"]]


def test_images_without_objects_are_fine() -> None:
    parsed = read_ground_truth(ONE | {"annotations": []})
    assert (len(parsed.file_names), len(parsed.image)) == (1, 0)


def test_lvis_images_are_named_by_the_end_of_their_url() -> None:
    truth = changed("images", coco_url="http://images.cocodataset.org/val2017/000000397133.jpg")
    del truth["images"][0]["file_name"]
    assert read_ground_truth(truth).file_names == ("val2017/000000397133.jpg",)


def test_an_image_whose_only_name_is_a_broken_url_has_none(tmp_path: Path) -> None:
    truth = changed("images", coco_url="http://[")
    del truth["images"][0]["file_name"]
    for form in (truth, written(tmp_path, truth)):
        with pytest.raises(Refused, match=r"images\[0\]: no `file_name`"):
            read_ground_truth(form)


def written(folder: Path, truth: dict[str, Any]) -> Path:
    (folder / "gt.json").write_text(json.dumps(truth))
    return folder / "gt.json"


def test_numbers_that_json_does_not_have_and_huge_ones_are_read_as_python_does(tmp_path: Path) -> None:
    odd = changed("annotations", id=2**70, area=float("nan"), score=float("inf"))
    assert read_ground_truth(written(tmp_path, odd)).areas.tolist() == [12.0]
    with pytest.raises(Refused, match=r"annotations\[0\]: `bbox` must be"):
        read_ground_truth(written(tmp_path, changed("annotations", bbox=[1, 2, 3, float("nan")])))


def test_a_file_takes_the_memory_of_its_columns_only(tmp_path: Path) -> None:
    """A file of 10 MB, most of it segmentations that nobody asked for."""
    annotations = [ONE["annotations"][0] | {"id": n, "segmentation": {"counts": "x" * 8000}} for n in range(1200)]
    path = written(tmp_path, ONE | {"annotations": annotations})
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    assert len(read_ground_truth(path).image) == 1200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_an_area_that_is_not_given_is_the_box() -> None:
    truth = changed("annotations")
    del truth["annotations"][0]["area"]
    assert read_ground_truth(truth).areas.tolist() == [12.0]


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({}, "no images in it"),
        (ONE | {"categories": []}, "no categories in it"),
        (changed("annotations", image_id=8), r"annotations\[0\]: image_id 8 matches no image"),
        (changed("annotations", category_id=4), r"annotations\[0\]: category_id 4 matches no category"),
        (changed("annotations", bbox=[1, 2, -3, 4]), r"annotations\[0\]: `bbox` must be"),
        (changed("annotations", bbox=[1, 2, 3]), r"annotations\[0\]: `bbox` must be"),
        (changed("annotations", bbox=[1, 2, 3, float("nan")]), r"annotations\[0\]: `bbox` must be"),
        (changed("annotations", image_id="7"), "whole numbers, got '7' and 3"),
        (changed("images", id=None), r"images\[0\]: `id` must be a whole number"),
        (changed("images", file_name=None), r"images\[0\]: no `file_name`"),
        (changed("categories", name=""), r"categories\[0\]: needs `id`"),
        (ONE | {"images": ONE["images"] * 2}, "image id 7 is used twice"),
        (ONE | {"annotations": ONE["annotations"] * 3}, "annotation id 1 is used twice"),
        (ONE | {"images": ["7.jpg"]}, r"images\[0\]: expected an object, got str"),
    ],
)
def test_a_bad_entry_is_named_in_one_line(truth: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        read_ground_truth(truth)


def test_each_bad_entry_is_named_by_its_own_position() -> None:
    good, bad = ONE["images"][0], [{"id": "a"}, {"id": 8}, {"id": "b", "file_name": "x"}]
    with pytest.raises(Refused) as caught:
        read_ground_truth(ONE | {"images": [good, *bad], "categories": [{}, *ONE["categories"], {"id": 4}]})
    places = [problem.partition(":")[0] for problem in caught.value.problems]
    assert places == ["images[1]", "images[2]", "images[3]", "categories[0]", "categories[2]"]


def test_many_problems_are_counted_and_the_first_shown() -> None:
    truth = ONE | {"annotations": [ONE["annotations"][0] | {"id": n, "category_id": 9} for n in range(50)]}
    with pytest.raises(Refused, match="50 problems") as caught:
        read_ground_truth(truth)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 30 more"


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 9, 1, 9, 9, 1, 9]],
        {"size": [50, 60], "counts": [51, 8, 42, 8, 2891]},
    ],
)
def test_masks_are_read_however_they_are_written(segmentation: Any) -> None:
    parsed = read_ground_truth(changed("annotations", segmentation=segmentation), masks=True)
    assert parsed.masks is not None
    assert parsed.masks[0]["size"] == [50, 60]
    assert isinstance(parsed.masks[0]["counts"], bytes)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        {"size": [9, 9], "counts": "1"},
        {"counts": "1"},
        [["x"]],
        [[1, 2]],
        {"size": [50, 60], "counts": [51, 8, 42, 8]},
        {"size": [50, 60], "counts": [51, 8, 42, 8, 2891, 1]},
        {"size": [50, 60], "counts": [-51, 8, 42, 8, 2993]},
        {"size": [50, 60], "counts": "P"},  # cut off
        {"size": [50, 60], "counts": ""},
        [[1, 1, 1e9, 1, 1e9, 9, 1, 9]],
        [[1, 1, float("nan"), 1, 9, 9, 1, 9]],
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(segmentation: Any) -> None:
    with pytest.raises(Refused, match=r"annotations\[0\]: .*segmentation"):
        read_ground_truth(changed("annotations", segmentation=segmentation), masks=True)


def test_a_part_has_the_objects_of_both_and_its_own_positions() -> None:
    parsed = read_ground_truth(make_federated(2))
    images = np.arange(len(parsed.file_names)) % 2 == 1
    categories = np.arange(len(parsed.categories)) != 1
    part = parsed.only(images, categories)
    kept = images[parsed.image] & categories[parsed.category]
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(part.image_ids[part.image], parsed.image_ids[parsed.image[kept]])
    ids = [[t.categories[place].id for place in t.category] for t in (part, parsed)]
    assert ids[0] == [id_ for id_, keep in zip(ids[1], kept, strict=True) if keep]
    pairs = []
    for truth in (part, parsed):
        assert truth.federated is not None
        keys = [divmod(int(key), len(truth.categories)) for key in truth.federated.negative]
        pairs.append({(int(truth.image_ids[image]), truth.categories[category].id) for image, category in keys})
    left = {c.id for c, keep in zip(parsed.categories, categories, strict=True) if keep}
    assert pairs[0] == {(i, c) for i, c in pairs[1] if i in part.image_ids and c in left}
    assert pairs[0]


def test_groups_name_categories_in_any_spelling() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    one = copy.deepcopy(ONE)
    one["categories"][0]["name"] = composed
    assert read_groups({"seen": [decomposed]}, read_ground_truth(one)) == {"seen": [0]}
    one["categories"].append({"id": 99, "name": decomposed})
    assert read_groups({"seen": [decomposed]}, read_ground_truth(one)) == {"seen": [1]}


def test_groups_are_lists_of_names_or_ids(tmp_path: Path) -> None:
    parsed = read_ground_truth(make_truth(0, categories=3))
    names = [category.name for category in parsed.categories]
    path = tmp_path / "groups.yaml"
    path.write_text(f"seen: [{names[1]}, {parsed.categories[0].id}]\nheld out: ['{names[2]}']\n")
    assert read_groups(path, parsed) == {"seen": [0, 1], "held out": [2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "must be a mapping"), ("seen: thing", "must be a mapping"), ("a: [", "not valid YAML"), ("", "must")],
)
def test_bad_groups_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match=message):
        read_groups(path, read_ground_truth(ONE))


def test_an_unknown_category_of_a_group_is_named_with_the_nearest() -> None:
    with pytest.raises(Refused, match="1 unknown") as caught:
        read_groups({"seen": ["catt"]}, read_ground_truth(ONE))
    assert caught.value.problems == ("seen: the annotations have no category 'catt'; did you mean cat?",)

"""Other people's annotations as training data: categories by name, each stored image once, every bad value named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from log_lines import logged
from PIL import Image
from training_parts import job_values, tiny_checkpoint

from labeler.cli import main
from labeler.errors import Refused
from labeler.evaluation import read_ground_truth
from labeler.training.annotations import locate, read_coco
from labeler.training.config import make_training_job
from labeler.training.job import prepare, run_worker
from labeler.training.shapes import ALL, SEEN
from labeler.training.stored_images import Location, Record
from labeler.training.validation import stored_validation
from labeler.vocabulary import Vocabulary

PETS = Vocabulary.load([{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}])
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]


def image(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "a.png", "width": 100, "height": 50, **changes}


def box(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 30], **changes}


def write(folder: Path, **lists: Any) -> str:
    """A COCO file over a.png, b.png and x/c.png, of 100 x 50."""
    (folder / "x").mkdir(exist_ok=True)
    for name in ("a.png", "b.png", "x/c.png"):
        Image.new("RGB", (100, 50)).save(folder / name)
    data = {"images": [image()], "annotations": [box()], "categories": CATEGORIES, **lists}
    (folder / "gt.json").write_text(json.dumps(data))
    return str(folder / "gt.json")


def read(folder: Path, vocabulary: Vocabulary = PETS, **lists: Any) -> list[Record]:
    return read_coco(write(folder, **lists), str(folder), vocabulary)


def names_of(record: Record, vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.by_id[int(id_)].name for id_ in record.category_ids]


def test_categories_are_matched_by_name_whatever_their_ids(tmp_path: Path) -> None:
    crossed = Vocabulary.load([{"id": 3, "name": "dog"}, {"id": 4, "name": "Cat"}, {"id": 9, "name": "bow_(weapon)"}])
    both = [box(), box(id=8, category_id=4, bbox=[0, 0, 5, 5])]
    (record,) = read(tmp_path, crossed, annotations=both)
    assert names_of(record, crossed) == ["Cat", "dog"]
    assert record.category_ids.tolist() == [4, 3]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 3, "name": "catt"}, {"id": 4, "name": "dog"}], 'category 3 "catt" is not in .* did you mean cat'),
        ([{"id": 3, "name": "cat"}, {"id": 4, "name": "CAT"}], "are one name"),
        ([{"id": 3, "name": "red"}, {"id": 4, "name": "blue"}], "none of their categories"),
    ],
)
def test_categories_without_a_name_in_the_vocabulary_are_refused(
    tmp_path: Path, categories: list[Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        read(tmp_path, categories=categories)


def test_an_image_is_not_replaced_by_its_namesake_in_another_folder(tmp_path: Path) -> None:
    two = [image(file_name="x/c.png"), image(id=2, file_name="y/c.png")]
    with pytest.raises(Refused, match=r'image 2 "y/c.png" is not in'):
        read(tmp_path, images=two)
    (record,) = read(tmp_path, images=[image(file_name="elsewhere/c.png")])
    assert record.location.uri.endswith("x/c.png"), "a name with another folder is known by its last part"


def test_each_stored_image_has_one_name_at_most() -> None:
    found = {path: Location(path) for path in ("a/1.jpg", "a/2.jpg", "b/2.jpg", "c/0.tar/3.jpg", "d/0.tar/3.jpg")}

    def places(*names: str) -> list[Any]:
        return [place.uri if isinstance(place, Location) else place or None for place in locate(names, found)]

    assert places("a/1.jpg", "b/1.jpg", "1.jpg") == ["a/1.jpg", None, None]
    assert places("1.jpg") == places("x/1.jpg") == places("a/1.jpg") == ["a/1.jpg"]
    assert places("2.jpg", "x/2.jpg") == [("a/2.jpg", "b/2.jpg"), None]
    assert places("0.tar/3.jpg") == [("c/0.tar/3.jpg", "d/0.tar/3.jpg")]
    assert places("1.jpg", "x/1.jpg") == ["a/1.jpg", None]
    assert places("c/0.tar/3.jpg", "d/0.tar/3.jpg") == ["c/0.tar/3.jpg", "d/0.tar/3.jpg"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"images": [image(), image(file_name="b.png")]}, "image id 1 is used twice"),
        ({"images": [image(), image(id=2)]}, 'two images have the file_name "a.png"'),
        ({"images": [5]}, r"images\[0\]: expected an object"),
        ({"images": [image(id=[1])]}, r"images\[0\]: `id` must be"),
        ({"images": [image(file_name=5)]}, r"images\[0\]: no `file_name`"),
        ({"images": [image(file_name=None)]}, r"images\[0\]: no `file_name`"),
        ({"images": [image(width="100")]}, "no `width` and `height`"),
        ({"images": [image(width=None)]}, "no `width` and `height`"),
        ({"images": [image(width=2**40)]}, "no `width` and `height`"),
        ({"images": [image(neg_category_ids=5)]}, r"images\[0\]: `neg_category_ids` .* must be lists"),
        ({"annotations": [5]}, r"annotations\[0\]: expected an object"),
        ({"annotations": [box(image_id=[1])]}, r"annotations\[0\]: needs `image_id`"),
        ({"annotations": [box(category_id=[1])]}, r"annotations\[0\]: needs `image_id`"),
        ({"annotations": [box(bbox=[True, True, 20, 30])]}, "`bbox` must be"),
        ({"annotations": [box(bbox=["1", 1, 20, 30])]}, "`bbox` must be"),
        ({"annotations": [box(bbox=[[1], 1, 20, 30])]}, "`bbox` must be"),
        ({"annotations": [box(bbox=[10**400, 1, 20, 30])]}, "`bbox` must be"),
        ({"annotations": [box(iscrowd="no")]}, "`iscrowd` and `ignore` must be 0 or 1, got 'no' and None"),
        ({"annotations": [box(iscrowd=2)]}, "must be 0 or 1, got 2"),
    ],
)
def test_a_malformed_entry_is_one_line_and_what_evaluation_refuses_training_refuses(
    tmp_path: Path, lists: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message) as refused:
        read(tmp_path, **lists)
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


def test_a_number_with_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path))
    path.write_text(path.read_text().replace('"id": 7', '"id": ' + "7" * 5000))
    with pytest.raises(Refused, match="are not a JSON object"):
        read_ground_truth(path)


@pytest.mark.parametrize(
    ("said", "crowd"),
    [("0", False), (0, False), (False, False), (None, False), (0.0, False), ("1", True), (True, True)],
)
def test_a_crowd_is_what_says_so(tmp_path: Path, said: Any, crowd: bool) -> None:
    (record,) = read(tmp_path, annotations=[box(iscrowd=said)])
    assert len(record.boxes_xyxy) == (0 if crowd else 1)
    assert read_ground_truth(tmp_path / "gt.json").crowd.tolist() == [crowd]


def test_a_crowd_without_area_is_no_problem(tmp_path: Path) -> None:
    (record,) = read(tmp_path, annotations=[box(), box(id=8, iscrowd=1, bbox=[1, 1, 0, 0])])
    assert len(record.boxes_xyxy) == 1


def test_lvis_names_its_images_by_url_and_unknown_absent_categories_mean_nothing(tmp_path: Path) -> None:
    entry = {"id": 1, "coco_url": "http://images/val2017/a.png", "width": 100, "height": 50.0}
    (record,) = read(tmp_path, images=[entry | {"neg_category_ids": [4, 99]}])
    assert record.location.uri.endswith("a.png")
    assert (record.negatives, record.height) == ((4,), 50)


FLAWED: dict[str, Any] = {
    "images": [image(), image(id=2, file_name="none.png"), image(id=3, file_name="b.png", width=0)],
    "annotations": [
        box(),
        box(id=8, bbox=[1, 1, 0, 5]),
        box(id=9, bbox=[90, 1, 50, 5]),
        box(id=10, category_id=5),
    ],
    "categories": [*CATEGORIES, {"id": 5, "name": "owl"}],
}


def test_partial_leaves_out_what_cannot_be_trained_and_counts_it(tmp_path: Path) -> None:
    path = write(tmp_path, **FLAWED)
    with pytest.raises(Refused, match='category 5 "owl" is not in the vocabulary'):
        read_coco(path, str(tmp_path), PETS)
    with pytest.raises(Refused, match="4 problems; partial=true"):
        read_coco(path, str(tmp_path), Vocabulary.load(path))
    with logged("labeler.training.annotations") as lines:
        (record,) = read_coco(path, str(tmp_path), PETS, partial=True)
    assert record.boxes_xyxy.tolist() == [[10, 10, 30, 40]]
    (line,) = lines
    for part in ("1 x category that", '"owl"', "1 x box without area", "1 x box outside", "1 x missing image",
                 "1 x image without a size"):  # fmt: skip
        assert part in line


def test_the_option_partial_trains_on_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"annotations": write(tmp_path, **FLAWED), "images": str(tmp_path)}
    train = {"steps": 1, "batch_size": 1, "loaders": 0, "threads": 1}
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(job_values(tmp_path / "out", data=data, train=train, vocabulary=["cat", "dog"])))
    assert main(["train", str(config)]) == 2
    assert not (tmp_path / "out").exists()
    assert main(["train", str(config), "--partial"]) == 0
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").exists()


def _record(path: Path, width: int, height: int) -> Record:
    return Record("a", Location(str(path)), width, height, np.asarray([[10, 10, 30, 40]], np.float32), np.asarray([3]))


def test_validation_on_copies_of_another_size_scales_the_boxes(tmp_path: Path) -> None:
    Image.new("RGB", (51, 25)).save(tmp_path / "half.png")
    (found,) = stored_validation([_record(tmp_path / "half.png", 102, 50)], PETS).images
    assert found.boxes.tolist() == [[5, 5, 15, 20]]


def test_an_image_of_another_shape_is_not_the_one_annotated(tmp_path: Path) -> None:
    Image.new("RGB", (60, 50)).save(tmp_path / "other.png")
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    records = [_record(tmp_path / "other.png", 100, 50), _record(tmp_path / "a.png", 100, 50)]
    with pytest.raises(Refused, match="validation images: a: is 60 x 50, not 100 x 50"):
        stored_validation(records, PETS)
    with logged("labeler.training.validation") as lines:
        assert len(stored_validation(records, PETS, partial=True).images) == 1
    assert "excluded: 1 of 2 images" in lines[0]
    with pytest.raises(Refused, match="validation images"):
        stored_validation(records[:1], PETS, partial=True)


def _job(tmp_path: Path, **sections: Any) -> Any:
    train = {"steps": 1, "batch_size": 1, "loaders": 0, "threads": 1}
    data = {"annotations": str(tmp_path / "gt.json"), "images": str(tmp_path)}
    return make_training_job(job_values(tmp_path / "out", **{"data": data, "train": train, **sections}))


def test_validation_categories_are_those_trained_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    crossed = [{"id": 3, "name": "owl"}, {"id": 4, "name": "cat"}, {"id": 5, "name": "dog"}]
    notes = [box(category_id=4), box(id=8, category_id=3), box(id=9, category_id=5)]
    write(other, categories=crossed, annotations=notes)
    validation = {"steps": 1, "annotations": str(other / "gt.json"), "images": str(other)}
    with logged("labeler.training.annotations") as lines:
        prepared = prepare(_job(tmp_path, validation=validation), tmp_path / "scratch")
    assert prepared.validation is not None
    assert prepared.validation.images[0].category_ids.tolist() == [3, 4]
    assert '"owl"' in lines[0], "what is not measured is named"


def test_annotations_that_changed_are_another_job(tmp_path: Path) -> None:
    write(tmp_path)
    run_worker(_job(tmp_path))
    run_worker(_job(tmp_path))
    config = tmp_path / "out" / "config.json"
    before = json.loads(config.read_text())
    write(tmp_path, annotations=[box(bbox=[11, 10, 20, 30])])
    with pytest.raises(Refused, match="another content of its annotations"):
        run_worker(_job(tmp_path))
    del before["truth"], before["partial"]
    config.write_text(json.dumps(before))  # as an earlier version wrote it
    run_worker(_job(tmp_path))
    assert "truth" in json.loads(config.read_text())


def test_a_vocabulary_over_drawn_shapes_is_matched_by_name(tmp_path: Path) -> None:
    names = [SEEN[5].name, "teapot", SEEN[0].name]
    model = {"name": str(tiny_checkpoint(tmp_path / "start"))}
    sections: dict[str, Any] = {"data": {"shapes": {"seed": 3}}, "model": model}
    prepared = prepare(_job(tmp_path, vocabulary=names, **sections), tmp_path / "scratch")
    first, teapot, last = prepared.sampler.category_ids.tolist()
    assert (first, last) == (SEEN[5].category_id, SEEN[0].category_id)
    assert teapot not in {combination.category_id for combination in ALL}


def test_data_without_a_box_is_warned_about(tmp_path: Path) -> None:
    write(tmp_path, annotations=[])
    with logged("labeler.training.job") as lines:
        prepare(_job(tmp_path), tmp_path / "scratch")
    assert "none of its 1 images has a box" in lines[0]


def test_a_category_of_crops_alone_is_refused_by_name_and_crops_beside_words_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "dog.png")
    names: list[Any] = [{"id": 3, "name": "cat", "phrases": ["cat", {"image": "b.png"}]}, {"id": 4, "name": "dog"}]
    vocabulary = tmp_path / "names.json"
    vocabulary.write_text(json.dumps(names))
    model = {"name": str(tiny_checkpoint(tmp_path / "start"))}
    job = _job(tmp_path, vocabulary=str(vocabulary), model=model)
    assert prepare(job, tmp_path / "scratch").sampler.category_ids.tolist() == [3, 4]

    names[1]["phrases"] = [{"image": "dog.png"}]
    vocabulary.write_text(json.dumps(names))
    config = tmp_path / "train.yaml"
    config.write_text(json.dumps(job.model_dump(mode="json")))
    capsys.readouterr()
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err
    assert 'category 4 "dog": its only phrases are images, and a model is trained on words; give it a phrase' in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    prepare(_job(tmp_path, vocabulary=str(vocabulary), model=model, data={
        "annotations": str(tmp_path / "gt.json"), "images": str(tmp_path), "exclude": ["dog"],
    }), tmp_path / "scratch")  # fmt: skip

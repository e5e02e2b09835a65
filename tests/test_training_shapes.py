from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycocotools.mask
import pytest
import yaml
from PIL import Image as pillow
from pycocotools.coco import COCO

from jobs import make_shapes
from labeler.errors import Refused
from labeler.training import shapes
from labeler.training.shapes.combinations import COLOURS, SHAPES
from labeler.training.shapes.data_set import caption
from labeler.training.shapes.outlines import cover

SCENES = [shapes.draw_scene(0, index) for index in range(60)]


def same(a: shapes.Scene, b: shapes.Scene) -> bool:
    return (
        np.array_equal(a.image, b.image)
        and np.array_equal(a.boxes_xyxy, b.boxes_xyxy)
        and np.array_equal(a.category_ids, b.category_ids)
        and a.masks == b.masks
    )


def visible(scene: shapes.Scene) -> npt.NDArray[np.bool_]:
    """(n, height, width)."""
    return np.stack([pycocotools.mask.decode(mask).astype(bool) for mask in scene.masks])


def members(path: str | Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


# Combinations


def test_no_or_unknown_combinations_are_refused():
    for which in ("none", [], ["red circle", "mauve blob"]):
        with pytest.raises(Refused, match="shapes: no "):
            shapes.select(which)
    assert [c.name for c in shapes.select(["blue star", "red circle"])] == ["blue star", "red circle"]
    assert shapes.select("seen") == shapes.SEEN


def test_there_are_80_categories_with_ids_from_1_and_names_of_two_words():
    categories = shapes.categories()
    assert [c["id"] for c in categories] == list(range(1, 81))
    assert len({c["name"] for c in categories}) == 80
    assert all(c["name"].split() == [*c["name"].split()[:1], c["supercategory"]] for c in categories)


def test_held_out_combinations_leave_every_colour_and_every_shape_in_training():
    assert len(shapes.HELD_OUT) == 14
    assert not set(shapes.HELD_OUT) & set(shapes.SEEN)
    assert set(shapes.HELD_OUT) | set(shapes.SEEN) == set(shapes.ALL)
    for group in (shapes.HELD_OUT, shapes.SEEN):
        assert {c.colour for c in group} == set(COLOURS)
        assert {c.shape for c in group} == set(SHAPES)
    for colour in COLOURS:
        assert sum(c.colour == colour for c in shapes.SEEN) >= 6
    for shape in SHAPES:
        assert sum(c.shape == shape for c in shapes.SEEN) >= 7
    assert [c["id"] for c in shapes.categories() if c["held_out"]] == [c.category_id for c in shapes.HELD_OUT]


# Scenes


@pytest.mark.parametrize(
    "wrong", [{"sizes": ()}, {"sizes": ((32, 320),)}, {"combinations": ()}, {"max_objects": 0}, {"seed": -1}]
)
def test_a_scene_that_makes_no_sense_is_refused(wrong: dict[str, object]):
    with pytest.raises(Refused, match="must be"):
        shapes.draw_scene(**{"seed": 0, "index": 0, **wrong})


def test_a_scene_depends_on_its_seed_and_index_alone():
    np.random.seed(3)
    random.seed(3)
    again = shapes.draw_scene(0, 17)
    assert same(again, SCENES[17])
    assert not same(again, shapes.draw_scene(0, 18))
    assert not same(again, shapes.draw_scene(1, 17))


def test_scenes_vary_in_size_and_number_of_objects():
    assert {scene.image.shape[1::-1] for scene in SCENES} == set(shapes.SIZES)
    assert all(scene.image.dtype == np.uint8 and scene.image.shape[2] == 3 for scene in SCENES)
    counts = [len(scene.category_ids) for scene in SCENES]
    assert (min(counts), max(counts)) == (1, 12)
    fixed = shapes.draw_scene(0, 0, sizes=[(100, 80)], max_objects=3)
    assert fixed.image.shape == (80, 100, 3)
    assert 1 <= len(fixed.category_ids) <= 3


def test_even_the_smallest_scene_holds_an_object():
    assert all(len(shapes.draw_scene(5, i, sizes=[(64, 64)]).category_ids) for i in range(30))


def test_only_the_combinations_asked_for_appear():
    ids = {c.category_id for c in shapes.SEEN}
    drawn = [shapes.draw_scene(2, i, combinations=shapes.SEEN) for i in range(40)]
    assert {int(i) for scene in drawn for i in scene.category_ids} <= ids
    one = shapes.select(["pink heart"])
    assert set(shapes.draw_scene(0, 0, combinations=one).category_ids.tolist()) == {one[0].category_id}


def test_boxes_are_tight_around_what_is_visible():
    for scene in SCENES:
        for box, mask in zip(scene.boxes_xyxy, visible(scene), strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scene.boxes_xyxy.dtype == np.float32
        assert scene.category_ids.dtype == np.int32


def test_masks_never_overlap_and_leave_enough_of_each_object():
    for scene in SCENES:
        masks = visible(scene)
        assert masks.sum(0).max() <= 1
        assert masks.sum((1, 2)).min() >= 60
    areas = [
        m.sum() / ((b[2] - b[0]) * (b[3] - b[1])) for s in SCENES for m, b in zip(visible(s), s.boxes_xyxy, strict=True)
    ]
    assert min(areas) > 0.1


def test_some_objects_hide_others():
    lone = np.array([cover(s, 20, 0.3).round().sum() for s in SHAPES])
    assert (lone > 300).all()
    touching = 0
    for scene in SCENES:
        b = scene.boxes_xyxy
        inside = (b[:, None, :2] < b[None, :, 2:]).all(-1) & (b[None, :, :2] < b[:, None, 2:]).all(-1)
        touching += int((inside.sum() - len(b)) // 2)
    assert touching > 40


def test_pixels_under_a_mask_have_the_colour_of_its_name():
    names = {c.category_id: c.colour for c in shapes.ALL}
    palette = np.array(list(COLOURS.values()), float)
    wrong = total = 0
    for scene in SCENES:
        for category_id, mask in zip(scene.category_ids, visible(scene), strict=True):
            mean = np.median(scene.image[mask], axis=0)
            nearest = list(COLOURS)[int(np.abs(palette - mean).sum(1).argmin())]
            wrong += nearest != names[int(category_id)]
            total += 1
    assert total > 300
    assert wrong == 0


def test_every_outline_turns_with_its_angle_and_stays_in_its_square():
    for shape in SHAPES:
        upright, turned = cover(shape, 30, 0), cover(shape, 30, np.pi / 2)
        assert upright.shape == turned.shape == (62, 62)
        assert np.abs(np.rot90(upright, -1) - turned).mean() < 0.02, shape
        assert upright[0].max() == upright[:, 0].max() == 0
    bare = {shape: cover(shape, 30, 0.0).sum() for shape in SHAPES}
    assert len({round(float(area)) for area in bare.values()}) == len(SHAPES)


def test_a_caption_counts_what_is_there():
    def said(*names: str) -> str:
        ids = np.array([c.category_id for name in names for c in shapes.select([name])], np.int32)
        return caption(shapes.Scene(np.zeros((64, 64, 3), np.uint8), np.zeros((len(ids), 4), np.float32), ids, ()))

    assert said("red ring") == "a red ring"
    assert said("orange cross") == "an orange cross"
    assert said("blue star", "red ring", "blue star", "pink cross", "pink cross") == (
        "two blue stars, a red ring, two pink crosses"
    )
    assert said(*["black arrow"] * 12) == "twelve black arrows"


# The data set


def test_writing_no_images_is_refused(tmp_path: Path):
    for numbers in ({"images": 0}, {"images": 3, "images_per_shard": 0}, {"images": 3, "seed": -1}):
        with pytest.raises(Refused, match="must be 1 or more"):
            shapes.write_data_set(str(tmp_path / "out"), **numbers)
    assert not (tmp_path / "out").exists()


def test_a_data_set_is_shards_ground_truth_and_vocabulary_that_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    written = shapes.write_data_set(str(tmp_path), images=7, seed=4, images_per_shard=3, image_format="png")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "annotations.json",
        "groups.yaml",
        "shards/shapes-000000.tar",
        "shards/shapes-000001.tar",
        "shards/shapes-000002.tar",
        "vocabulary.txt",
    ]
    truth = COCO(str(tmp_path / "annotations.json"))
    assert (len(truth.imgs), len(truth.anns)) == (7, written.objects)
    groups = yaml.safe_load((tmp_path / "groups.yaml").read_text())
    assert groups["held out"] == [c.name for c in shapes.HELD_OUT]
    assert groups["seen"] == [c.name for c in shapes.SEEN]
    assert (tmp_path / "vocabulary.txt").read_text().splitlines() == [truth.cats[i]["name"] for i in range(1, 81)]
    for index, image in enumerate(truth.dataset["images"]):
        shard, member = image["file_name"].split("/")
        scene = shapes.draw_scene(4, index)
        files = members(tmp_path / "shards" / shard)
        assert np.array_equal(np.asarray(pillow.open(io.BytesIO(files[member]))), scene.image)
        assert json.loads(files[member.replace(".png", ".json")])["caption"] == caption(scene)
        assert (image["height"], image["width"]) == scene.image.shape[:2]
        annotations = truth.imgToAnns[image["id"]]
        assert [a["category_id"] for a in annotations] == scene.category_ids.tolist()
        for annotation, mask, box in zip(annotations, visible(scene), scene.boxes_xyxy.tolist(), strict=True):
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == box
            assert np.array_equal(truth.annToMask(annotation).astype(bool), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["id"] > 0
            assert annotation["iscrowd"] == 0


def test_the_same_call_gives_the_same_bytes_and_images_do_not_depend_on_their_number(tmp_path: Path):
    sizes = [(96, 96)]
    for name, images in (("a", 4), ("b", 4), ("c", 6)):
        shapes.write_data_set(str(tmp_path / name), images=images, seed=9, images_per_shard=2, sizes=sizes)
    for path in ("annotations.json", "shards/shapes-000000.tar", "shards/shapes-000001.tar"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    first = "shards/shapes-000001.tar"
    assert (tmp_path / "a" / first).read_bytes() == (tmp_path / "c" / first).read_bytes()


def test_jpegs_stay_close_to_the_scene(tmp_path: Path):
    written = shapes.write_data_set(str(tmp_path), images=2, seed=0, captions=False)
    files = members(written.shards[0])
    assert list(files) == ["000000.jpg", "000001.jpg"]
    pixels = np.asarray(pillow.open(io.BytesIO(files["000001.jpg"])))
    assert np.abs(pixels.astype(int) - SCENES[1].image).mean() < 4


# The command


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = [str(tmp_path), "--images", "5", "--seed", "3", "--images-per-shard", "4", "--size", "96x64"]
    assert make_shapes.main([*command, "--combinations", "held_out", "--format", "png", "--no-captions"]) == 0
    truth = json.loads((tmp_path / "annotations.json").read_text())
    assert {(image["width"], image["height"]) for image in truth["images"]} == {(96, 64)}
    assert {a["category_id"] for a in truth["annotations"]} <= {c.category_id for c in shapes.HELD_OUT}
    assert list(members(tmp_path / "shards" / "shapes-000001.tar")) == ["000004.png"]
    assert "5 in 2 shards" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert make_shapes.main([str(tmp_path / "x"), "--images", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        make_shapes.main([str(tmp_path / "x"), "--size", "big"])
    assert not (tmp_path / "x").exists()

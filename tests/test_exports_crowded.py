"""Images with more boxes than a tool bears: crops that hold each box once, and merge back to the bit."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labeler.cli import main
from labeler.digests import digest_of
from labeler.exports.crowded import CorrectedCrop, TaskCrop, cut_into_crops, merge_crops
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.masks import Mask
from labeler.runs import Run, read_snapshot
from tests.label_runs import row, write_run

WIDTH, HEIGHT = 640, 480


def shelf(seed: int, count: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(count, 4) float32 boxes anywhere in the image, small ones and some as large as half of it."""
    rng = np.random.default_rng(seed)
    sides = np.where(rng.random((count, 1)) < 0.95, rng.uniform(2, 30, (count, 2)), rng.uniform(80, 300, (count, 2)))
    corners = rng.uniform(-5, [width, height], (count, 2))
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    return np.clip(boxes, 0, np.array([width, height] * 2, np.float32))


def in_crop(crop: TaskCrop, boxes: np.ndarray) -> np.ndarray:
    left, top = crop.window[:2]
    return np.asarray(boxes - np.array([left, top] * 2, np.float32))


@pytest.mark.parametrize("most", [1, 7, 50, 200])
@pytest.mark.parametrize("count", [0, 1, 50, 333])
def test_each_box_is_in_one_crop_whole_and_cores_tile_the_image(count: int, most: int) -> None:
    boxes = shelf(count, count)
    crops = cut_into_crops(boxes, width=WIDTH, height=HEIGHT, most=most)
    assert sorted(place for _, places in crops for place in places) == list(range(count))
    covered = np.zeros((HEIGHT, WIDTH), int)
    for number, (crop, places) in enumerate(crops):
        assert (crop.number, crop.count) == (number, len(crops))
        assert len(places) <= most
        left, top, right, bottom = crop.window
        assert 0 <= left < right <= WIDTH
        assert 0 <= top < bottom <= HEIGHT
        assert (boxes[places] >= [left, top, left, top]).all()
        assert (boxes[places] <= [right, bottom, right, bottom]).all()
        x0, y0, x1, y1 = crop.core
        covered[y0:y1, x0:x1] += 1
        assert left <= x0
        assert y1 <= bottom
        assert TaskCrop.of_json(json.loads(json.dumps(crop.to_json()))) == crop
    assert (covered == 1).all()
    if count <= most:
        assert crops[0][0].window == (0, 0, WIDTH, HEIGHT)
    else:
        assert len(crops) <= 4 * -(-count // most)


def test_crops_overlap() -> None:
    (one, _), (other, _) = cut_into_crops(shelf(1, 10), width=WIDTH, height=HEIGHT, most=6)
    assert one.core[2] == other.core[0]
    assert one.window[2] > other.window[0] + 20


def test_boxes_that_nothing_parts_stay_together() -> None:
    same = np.tile(np.array([10, 10, 11, 11], np.float32), (30, 1))
    crops = cut_into_crops(np.concatenate([same, shelf(2, 5)]), width=WIDTH, height=HEIGHT, most=4)
    assert max(len(places) for _, places in crops) == 30
    assert sum(len(places) for _, places in crops) == 35


@pytest.mark.parametrize("seed", range(5))
def test_crops_merge_back_to_the_bit(seed: int) -> None:
    boxes = shelf(seed, 333)
    crops = cut_into_crops(boxes, width=WIDTH, height=HEIGHT, most=20)
    order = np.random.default_rng(seed).permutation(len(crops))
    corrected = [
        CorrectedCrop(crops[at][0], in_crop(crops[at][0], boxes[crops[at][1]]), [str(p) for p in crops[at][1]])
        for at in order
    ]
    merged = merge_crops(corrected)
    assert sorted(merged.ids, key=str) == sorted(map(str, range(333)))
    np.testing.assert_array_equal(merged.boxes.astype(np.float32), boxes[[int(id_) for id_ in merged.ids if id_]])
    assert (merged.doubled, merged.missing) == ([], [])
    partial = merge_crops(corrected[:-1])
    assert partial.missing == [int(order[-1])]


def two_crops() -> tuple[TaskCrop, TaskCrop]:
    return TaskCrop(0, 2, (0, 0, 70, 100), (0, 0, 50, 100)), TaskCrop(1, 2, (30, 0, 100, 100), (50, 0, 100, 100))


def boxes_of(*boxes: list[float]) -> np.ndarray:
    return np.array(boxes, np.float64).reshape(-1, 4)


def test_an_object_that_two_reviewers_drew_is_there_once() -> None:
    one, other = two_crops()
    drawn = CorrectedCrop(one, boxes_of([40, 10, 66, 30]), [None])  # its center, 53, is the other's
    same = CorrectedCrop(other, boxes_of([11, 10, 36, 30]), [None])
    merged = merge_crops([drawn, same])
    assert merged.boxes.tolist() == [[41, 10, 66, 30]]
    assert merged.sources == [(1, 0)]
    assert merged.doubled == [(0, 0)]
    alone = merge_crops([drawn, CorrectedCrop(other, boxes_of(), [])])
    assert alone.boxes.tolist() == [[40, 10, 66, 30]], "what only the neighbor drew is not lost"
    handed = CorrectedCrop(other, boxes_of([10, 10, 36, 30]), ["7"])
    assert merge_crops([drawn, handed]).ids == ["7"]
    both_in_margins = merge_crops(
        [CorrectedCrop(one, boxes_of([48, 0, 60, 9]), [None]), CorrectedCrop(other, boxes_of([0, 0, 19, 9]), [None])]
    )
    assert len(both_in_margins.boxes) == 2, "two objects"
    within = merge_crops([CorrectedCrop(one, boxes_of([1, 1, 9, 9], [1, 1, 9, 9]), [None, None])])
    assert len(within.boxes) == 2, "one reviewer's own boxes are nobody else's"


def test_a_box_that_was_moved_out_of_its_core_stays() -> None:
    one, other = two_crops()
    merged = merge_crops(
        [CorrectedCrop(one, boxes_of([50, 0, 68, 20]), ["3"]), CorrectedCrop(other, boxes_of([20, 0, 38, 20]), ["4"])]
    )
    assert merged.ids == ["3", "4"]


def test_crops_that_do_not_fit_together_are_refused() -> None:
    one, other = two_crops()
    empty = boxes_of()
    for wrong, message in (
        ([], "without a crop"),
        ([CorrectedCrop(one, empty, []), CorrectedCrop(one, empty, [])], "crop 0 of an image came back twice"),
        ([CorrectedCrop(one, empty, []), CorrectedCrop(TaskCrop(1, 3, *BOX), empty, [])], "different images"),
        ([CorrectedCrop(one, boxes_of([0, 0, 1, 1]), ["3"]), CorrectedCrop(other, boxes_of([0, 0, 1, 1]), ["3"])],
         "box 3 came back twice"),
        ([CorrectedCrop(one, empty, ["3"])], "0 boxes and 1 ids"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            merge_crops(wrong)


BOX = ((0, 0, 9, 9), (0, 0, 9, 9))
GOOD = {"number": 0, "count": 2, "window": [0, 0, 9, 9], "core": [0, 0, 5, 9]}


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], "x", {}, GOOD | {"more": 1}, GOOD | {"number": 2}, GOOD | {"number": True}, GOOD | {"count": "2"},
        GOOD | {"window": [0, 0, 9]}, GOOD | {"window": [0, 0, 9, 9.5]}, GOOD | {"window": [9, 0, 0, 9]},
        GOOD | {"core": [0, 0, 10, 9]}, GOOD | {"core": [-1, 0, 5, 9]}, GOOD | {"core": None},
    ],
)  # fmt: skip
def test_what_is_not_a_crop_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"crop|whole numbers|left, top"):
        TaskCrop.of_json(wrong)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A crowded image with masks, a JPEG, and one with few boxes, a PNG, as files."""
    from labeler.shards import find_shards

    folder = tmp_path_factory.mktemp("crowded")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    boxes = shelf(9, 60)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) > 1]
    for index, (name, count) in enumerate((("a.jpg", len(boxes)), ("b.png", 3))):
        pixels = np.kron(rng.integers(60, 200, (HEIGHT // 8, WIDTH // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG" if name.endswith("jpg") else "PNG")
        data = buffer.getvalue()
        (folder / "in" / name).write_bytes(data)
        found = Detections.of(boxes[:count], rng.uniform(0.3, 1, count).round(4), rng.choice([3, 8], count)).sorted()
        found = found.with_masks([filled(box) for box in found.boxes])
        where = {"uri": str(folder / "in" / name), "offset": 0, "length": len(data), "digest": digest_of(data)}
        rows.append(row(index, found, image_key=name, orientation=1, **where))
    shards = find_shards(str(folder / "in"), format="images")
    return write_run(folder / "run", {(0, 0): rows}, shards=shards, fields={"masks": "m"})


def filled(box: np.ndarray) -> Mask:
    """The box as a mask, in whole pixels."""
    left, top, right, bottom = (int(side) for side in box)
    window = np.ones((max(1, right - left), max(1, bottom - top)), np.bool_)
    return Mask.of_window(window, min(left, WIDTH - 1), min(top, HEIGHT - 1), height=HEIGHT, width=WIDTH)


def stored(run: Run) -> dict[str, np.ndarray]:
    """Each box of the run by its id."""
    return {
        f"{shown['shard_id']}-{shown['index']:06d}-{place}": box
        for table in read_snapshot(run).tables()
        for shown, found in zip(table.to_pylist(), DetectionsColumn(table).per_row(masks=False), strict=True)
        for place, box in enumerate(found.boxes)
    }


def export(run: Run, out: Path, to: str, *options: str) -> None:
    assert main(["export", run.uri, "--to", to, "--output", str(out), "--suppress", "off", *options]) == 0


def test_label_studio_tasks_of_crops_merge_back_to_the_bit(crowded: Run, tmp_path: Path) -> None:
    export(crowded, tmp_path / "out", "label-studio", "--boxes-per-task", "10")
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    expected, found = stored(crowded), {}
    crops = [task for task in tasks if "labeler_crop" in task["data"]]
    assert len(tasks) - len(crops) == 1
    assert {task["data"]["labeler_row"] for task in crops} == {"000000/000000"}
    corrected = []
    with Image.open(next((Path(crowded.uri).parent / "in").glob("*.jpg"))) as image:
        whole = np.asarray(image)
    for task in crops:
        crop = TaskCrop.of_json(task["data"]["labeler_crop"])
        with Image.open(tmp_path / "out" / task["data"]["image"].partition("?d=out/")[2]) as image:
            assert image.size == (crop.width, crop.height)
            pixels = np.asarray(image).astype(int)
        x0, y0, x1, y1 = crop.core
        left, top = crop.window[:2]
        core = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        assert np.abs(core - whole[y0:y1, x0:x1]).mean() < 3
        assert pixels.mean() < whole.mean(), "the margin is dimmed"
        regions = [r for r in task["predictions"][0]["result"] if r["type"] == "rectanglelabels"]
        assert 0 < len(regions) <= 10
        boxes, ids = [], []
        for region in regions:
            assert (region["original_width"], region["original_height"]) == (crop.width, crop.height)
            value, sides = region["value"], (crop.width, crop.height)
            x, y = (value[name] * side / 100 for name, side in zip("xy", sides, strict=True))
            w, h = (value[name] * side / 100 for name, side in zip(("width", "height"), sides, strict=True))
            boxes.append([x, y, x + w, y + h])
            ids.append(region["id"])
        corrected.append(CorrectedCrop(crop, np.array(boxes), ids))
    merged = merge_crops(corrected)
    found = dict(zip(merged.ids, merged.boxes.astype(np.float32), strict=True))
    mine = {id_: box for id_, box in expected.items() if id_.startswith("000000-000000")}
    assert found.keys() == mine.keys()
    for id_, box in mine.items():
        np.testing.assert_array_equal(found[id_], box)


def test_masks_move_with_their_boxes(crowded: Run, tmp_path: Path) -> None:
    from tests.test_exports_label_studio import decode

    export(crowded, tmp_path / "out", "label-studio", "--boxes-per-task", "10")
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    task = next(task for task in tasks if task["data"].get("labeler_crop", {}).get("number") == 2)
    crop = TaskCrop.of_json(task["data"]["labeler_crop"])
    left, top, right, bottom = crop.window
    expected = stored(crowded)
    masks = [region for region in task["predictions"][0]["result"] if region["type"] == "brushlabels"]
    assert masks
    for region in masks:
        inside = decode(region["value"]["rle"]).reshape(crop.height, crop.width, 4)[..., 0] > 0
        whole = filled(expected[region["id"].removesuffix("-mask")]).decode()
        np.testing.assert_array_equal(inside, whole[top:bottom, left:right] > 0)
        assert whole.sum() == inside.sum()


@pytest.mark.parametrize("to", ["cvat", "x-anylabeling"])
def test_other_tools_get_crops_where_asked(crowded: Run, tmp_path: Path, to: str) -> None:
    export(crowded, tmp_path / "plain", to)
    assert not list((tmp_path / "plain").rglob("*crop*"))
    export(crowded, tmp_path / "out", to, "--boxes-per-task", "10")
    expected = {id_.replace("-", "/"): box for id_, box in stored(crowded).items()}
    found: dict[str, list[np.ndarray]] = {}
    if to == "cvat":
        for image in ElementTree.parse(tmp_path / "out" / "task-00000" / "annotations.xml").iter("image"):
            text = image.findtext("tag[@label='labeler_task']/attribute[@name='labeler_crop']")
            left, top = TaskCrop.of_json(json.loads(text)).window[:2] if text else (0, 0)
            assert (text is not None) == ("-crop-" in str(image.get("name")))
            assert (tmp_path / "out" / "task-00000" / "images" / str(image.get("name"))).exists()
            for box in image.iter("box"):
                sides = [float(box.get(name) or "") for name in ("xtl", "ytl", "xbr", "ybr")]
                id_ = box.findtext("attribute[@name='labeler_box']") or ""
                found.setdefault(id_, []).append(np.array(sides) + np.tile([left, top], 2))
    else:
        for path in (tmp_path / "out" / "images").rglob("*.json"):
            values = json.loads(path.read_text())
            assert (path.parent / values["imagePath"]).exists()
            about = values.get("labeler_crop")
            left, top = TaskCrop.of_json(about).window[:2] if about else (0, 0)
            for shape in values["shapes"]:
                sides = np.array(shape["points"])[[0, 2]].reshape(-1)
                found.setdefault(shape["description"], []).append(sides + np.tile([left, top], 2))
    assert found.keys() == expected.keys()
    for id_, boxes in found.items():
        assert len(boxes) == 1
        assert np.abs(boxes[0] - expected[id_]).max() < 0.006


def test_only_crops_with_a_sampled_box_are_handed_out(crowded: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    options = ["--strategy", "random", "--n", "3", "--suppress", "off", "--seed", "2", "--output", str(path)]
    assert main(["sample", crowded.uri, *options]) == 0
    drawn = [
        f"{image['shard_id']}/{image['index']:06d}/{box['box']}"
        for image in json.loads(path.read_text())["images"]
        for box in image["boxes"]
    ]
    out = tmp_path / "out"
    assert main(["export", crowded.uri, "--to", "label-studio", "--sample", str(path), "--boxes-per-task", "10",
                 "--output", str(out)]) == 0  # fmt: skip
    tasks = json.loads((out / "tasks-00000.json").read_text())
    assert 1 <= len(tasks) <= 3
    assert sorted(box["box"] for task in tasks for box in task["data"]["labeler_boxes"]) == sorted(drawn)
    for task in tasks:
        ids = {region["id"] for region in task["predictions"][0]["result"]}
        assert {box["box"].replace("/", "-") for box in task["data"]["labeler_boxes"]} <= ids


def test_the_default_is_200_for_label_studio_and_off_turns_it_off(crowded: Run, tmp_path: Path) -> None:
    export(crowded, tmp_path / "default", "label-studio")
    export(crowded, tmp_path / "off", "label-studio", "--boxes-per-task", "off")
    one, other = ((tmp_path / name / "tasks-00000.json").read_bytes() for name in ("default", "off"))
    assert one.replace(b"=default/", b"=off/") == other
    settings = json.loads((tmp_path / "default" / ".labeler" / "export.json").read_text())["asked"]["settings"]
    assert settings["boxes_per_task"] == 200


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--to", "label-studio", "--boxes-per-task", "0"), "--boxes-per-task is a number"),
        (("--to", "cvat", "--boxes-per-task", "many"), "--boxes-per-task is a number"),
        (("--to", "coco", "--boxes-per-task", "5"), "coco does not have it"),
    ],
)
def test_a_bad_number_of_boxes_is_a_line(
    crowded: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str
) -> None:
    assert main(["export", crowded.uri, "--output", str(tmp_path / "o"), *options]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_boxes_of_two_crops_are_one_object_from_an_overlap_of_half_on() -> None:
    one, other = two_crops()
    drawn = CorrectedCrop(one, boxes_of([45, 0, 65, 10]), [None])  # its center is in the other's core
    for height, count in ((5.0, 1), (4.9, 2)):
        handed = CorrectedCrop(other, boxes_of([15, 0, 35, height]), ["1"])
        assert len(merge_crops([drawn, handed]).boxes) == count

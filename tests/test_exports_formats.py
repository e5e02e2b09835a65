"""Every format is opened by what people open it with, and the pixels under each box are looked at."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image
from pycocotools.coco import COCO

from labeler import storage
from labeler.cli import main
from labeler.exports.yolo import label_text
from labeler.labels.detections import Detections
from labeler.runs import Run
from tests.inputs import tar_bytes
from tests.label_runs import row, write_run
from tests.red_boxes import label_folder, picture, red_run, red_share
from tests.s3_server import S3Server

IMAGES = 18


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return red_run(tmp_path_factory.mktemp("red"))


def export(run: Run, out: Path, to: str, *options: str) -> Path:
    assert main(["export", run.uri, "--to", to, "--output", str(out), *options]) == 0
    return out


def pixels_of(source: Any) -> Any:
    return np.asarray(Image.open(source))  # as stored: no EXIF is looked at


def test_an_export_without_images_is_valid_in_every_format(tmp_path: Path) -> None:
    empty = write_run(tmp_path / "run", {(0, 0): [row(0, status="decode_error", width=None, height=None)]})
    for to in ("coco", "lvis", "odvg", "yolo", "webdataset", "parquet", "hf"):
        out = export(empty, tmp_path / to, to)
        assert json.loads((out / ".labeler/export.json").read_text())["complete"] is True
    assert COCO(str(tmp_path / "coco/labels.json")).imgs == {}
    assert COCO(str(tmp_path / "lvis/labels.json")).imgs == {}
    assert (tmp_path / "odvg/labels.jsonl").read_text() == ""
    assert pq.read_table(tmp_path / "parquet/boxes").num_rows == 0
    assert pq.read_table(tmp_path / "hf/data").num_rows == 0  # `datasets` itself refuses a split without rows


def test_coco_with_images_opens_in_supervision(run: Run, tmp_path: Path) -> None:
    import supervision

    out = export(run, tmp_path / "out", "coco", "--images", "copy")
    found = supervision.DetectionDataset.from_coco(str(out / "images"), str(out / "labels.json"))
    assert found.classes == ["red box", "blue box"]
    seen = 0
    for path, _, detections in found:
        assert detections.class_id.tolist() == [0], "the blue box in the same place is suppressed"
        assert red_share(pixels_of(path), detections.xyxy[0]) == 1.0
        seen += 1
    assert seen == IMAGES
    first = next(iter(COCO(str(out / "labels.json")).imgs.values()))
    assert (first["file_name"], first["source"]) == ("000000/000000.jpg", "part-0.tar/000.jpg")


def test_coco_in_shards_is_the_same_as_in_one_piece(run: Run, tmp_path: Path) -> None:
    whole = COCO(str(export(run, tmp_path / "one.json", "coco")))
    out = export(run, tmp_path / "many", "coco", "--images-per-shard", "4")
    parts = [COCO(str(path)) for path in sorted(out.glob("labels-*.json"))]
    assert len(parts) == 5  # a shard ends with the unit that fills it; two units of each tar have 4 images, one has 1
    assert [i for part in parts for i in part.dataset["images"]] == whole.dataset["images"]
    assert [a for part in parts for a in part.dataset["annotations"]] == whole.dataset["annotations"]


def test_lvis_says_what_is_absent_and_what_is_not_exhaustive(tmp_path: Path) -> None:
    two = Detections.of([[0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]], [0.9, 0.2, 0.2], [3, 3, 8])
    categories = [{"id": i, "name": n} for i, n in ((3, "cat"), (8, "dog"), (11, "owl"), (12, "emu"))]
    full = Detections.of(np.tile([0, 0, 9, 9], (300, 1)), np.full(300, 0.9), np.full(300, 3))
    units = {(0, 0): [row(0, two), row(1), row(2, full)]}
    run = write_run(tmp_path / "run", units, categories=categories)
    out = export(run, tmp_path / "l.json", "lvis", "--threshold", "0.5", "--negatives", "3")
    found = COCO(str(out))
    lists = {i["id"]: (i["neg_category_ids"], i["not_exhaustive_category_ids"]) for i in found.imgs.values()}
    assert lists[1] == ([11, 12], [3]), "there may be a dog, and a second cat: not absent, not exhaustive"
    assert len(lists[2][0]) == 3
    assert lists[3][0] == [], "at the cap nobody knows what was cut"
    cats = {c["name"]: c for c in found.cats.values()}
    assert (cats["cat"]["image_count"], cats["cat"]["instance_count"], cats["cat"]["frequency"]) == (2, 2, "r")
    assert "pseudo-labels" in found.dataset["info"]["policy"]
    assert main(["evaluate", run.uri, "--annotations", str(out), "--rules", "lvis", "--partial"]) == 0


# ---- YOLO, by the rules of ultralytics' own check of images and labels, written down here

IMAGE_FORMATS = {"bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"}


def check_as_ultralytics(root: Path, split: str) -> dict[Path, Any]:
    """Every image of a split with its boxes (n, 5); fails where ultralytics would drop an image or a label."""
    data = yaml.safe_load((root / "data.yaml").read_text())
    assert {"train", "val"} <= set(data)
    assert "path" not in data
    assert sorted(data["names"]) == list(range(len(data["names"])))
    found = {}
    for path in sorted((root / data[split]).rglob("*.*")):
        assert path.suffix[1:].lower() in IMAGE_FORMATS
        with Image.open(path) as image:
            assert (image.format or "").lower() in IMAGE_FORMATS
            assert min(image.size) > 9
            assert image.getexif().get(0x0112, 1) == 1, "readers do not agree about turned images"
        with Image.open(path) as image:
            image.verify()
        if path.suffix == ".jpg":
            assert path.read_bytes()[-2:] == b"\xff\xd9", "a corrupt JPEG is rewritten in place"
        head, _, tail = str(path).rpartition("/images/")
        lines = Path(f"{head}/labels/{tail}").with_suffix(".txt").read_text().splitlines()
        labels = np.array([line.split() for line in lines], np.float32).reshape(-1, 5)
        assert (labels >= 0).all()
        assert (labels[:, 1:] <= 1).all()
        assert (labels[:, 0] < len(data["names"])).all()
        assert len(np.unique(labels, axis=0)) == len(labels), "duplicates are dropped"
        found[path] = labels
    return found


def test_yolo_passes_ultralytics_rules_and_boxes_fit_the_pixels(run: Run, tmp_path: Path) -> None:
    import supervision

    out = export(run, tmp_path / "out", "yolo", "--split", "train=0.7,val=0.3")
    found = {**check_as_ultralytics(out, "train"), **check_as_ultralytics(out, "val")}
    assert len(found) == IMAGES
    for path, labels in found.items():
        pixels = pixels_of(path)
        height, width, _ = pixels.shape
        (class_, x, y, w, h) = labels[0]
        box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        assert class_ == 0
        assert red_share(pixels, box) == 1.0
    for split in ("train", "val"):
        opened = supervision.DetectionDataset.from_yolo(
            *(str(out / place) for place in (f"images/{split}", f"labels/{split}", "data.yaml"))
        )
        assert len(opened) > 0
        for path, _, detections in opened:
            assert red_share(pixels_of(path), detections.xyxy[0]) == 1.0
    sources = [json.loads(line) for line in (out / "sources-00000.jsonl").read_text().splitlines()]
    assert {(out / s["file"]) for s in sources} == set(found)


def test_only_the_bytes_of_selected_images_are_read(run: Run, tmp_path: Path) -> None:
    rows = pa.concat_tables(pq.read_table(f) for f in sorted(Path(run.uri, "labels").rglob("*.parquet")))
    wanted = rows.filter(pa.compute.equal(rows["json.group"], "film 2"))

    def bytes_read(group: str) -> int:
        before = storage.traffic().bytes_read
        export(run, tmp_path / group, "yolo", "--where", f"\"json.group\" = '{group}'")
        return storage.traffic().bytes_read - before

    without_images = bytes_read("no such film")  # the run's own files
    assert bytes_read("film 2") - without_images == sum(wanted["length"].to_pylist())
    assert len(wanted) == 3
    assert json.loads((tmp_path / "film 2/.labeler/export.json").read_text())["totals"]["images"].keys() <= {
        "train",
        "val",
    }


def test_a_label_never_leaves_the_unit_square() -> None:
    edges = Detections.of([[0, 0, 7, 3], [6.999, 2.999, 7.001, 3.001]], [0.5, 0.5], [3, 3])
    for line in label_text(edges, {3: 0}, width=7, height=3).splitlines():
        values = np.array([float(v) for v in line.split()[1:]])
        assert ((values >= 0) & (values <= 1)).all()
    assert label_text(Detections.empty(), {}, width=7, height=3) == ""


def test_odvg_has_what_its_readers_take(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "odvg", "--images", "copy", "--split", "train=0.6,val=0.4")
    label_map = json.loads((out / "label_map.json").read_text())
    assert label_map == {"0": "red box", "1": "blue box"}
    found = datasets.load_dataset(
        "json", data_files={s: str(out / f"{s}.jsonl") for s in ("train", "val")}, cache_dir=str(tmp_path / "cache")
    )
    assert found["train"].num_rows + found["val"].num_rows == IMAGES
    for line in found["train"]:
        (instance,) = line["detection"]["instances"]
        pixels = pixels_of(out / "images" / line["filename"])
        assert pixels.shape[:2] == (line["height"], line["width"])
        assert red_share(pixels, instance["bbox"]) == 1.0
        assert label_map[str(instance["label"])] == instance["category"] == "red box"
        assert 0.5 <= instance["score"] <= 1


def test_odvg_as_one_file_has_its_label_map_beside(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "labels.jsonl", "odvg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.jsonl", "labels_label_map.json"]


def test_webdataset_opens_in_webdataset(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "webdataset", "--images-per-shard", "6")
    tars = sorted(str(path) for path in out.glob("*.tar"))
    assert len(tars) > 1
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert len(samples) == IMAGES
    for sample in samples:
        extension = next(e for e in ("jpg", "png") if e in sample)
        with Image.open(io.BytesIO(next_raw(tars, f"{sample['__key__']}.{extension}"))) as image:
            labels = sample["json"]
            assert image.size == (labels["width"], labels["height"])
            assert red_share(np.asarray(image), labels["boxes_xyxy"][0]) == 1.0
        assert labels["categories"] == ["red box"]
        assert labels["json.group"].startswith("film ")


def next_raw(tars: list[str], name: str) -> bytes:
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        for extension, value in sample.items():
            if f"{sample['__key__']}.{extension}" == name:
                return bytes(value)
    raise AssertionError(name)


def test_tables_open_in_duckdb_pyarrow_and_datasets(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "parquet", "--images", "copy", "--split", "train=0.7,val=0.3")
    query = f"""
        select i.shard_id, i."index", count(*) as boxes, min(b.category), any_value(b.run_id)
        from '{out}/images/*.parquet' i join '{out}/boxes/*.parquet' b using (digest) group by all"""
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == IMAGES
    assert {row[2:] for row in rows} == {(1, "red box", run.manifest.run_id)}
    boxes = pq.read_table(out / "boxes")
    assert set(boxes["model_digest"].to_pylist()) == {"m1"}
    assert boxes.schema.field("score").type == pa.float32()
    images = datasets.Dataset.from_parquet(
        [str(p) for p in sorted((out / "images").glob("*.parquet"))], cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(images.features["image"], datasets.Image)
    labels = datasets.Dataset.from_parquet(
        [str(p) for p in sorted((out / "boxes").glob("*.parquet"))], cache_dir=str(tmp_path / "cache2")
    )
    assert labels.features["label"].names == ["red box", "blue box"]
    by_digest = {found["digest"]: found for found in labels}
    for found in images:
        box = by_digest[found["digest"]]
        corners = [box[side] for side in ("x_min", "y_min", "x_max", "y_max")]
        assert red_share(np.asarray(found["image"]), corners) == 1.0


def test_hugging_face_rows_have_images_and_named_classes(run: Run, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out", "hf", "--split", "train=0.7,val=0.3")
    found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert found["train"].num_rows + found["validation"].num_rows == IMAGES
    features = found["train"].features
    assert features["objects"]["category"].feature.names == ["red box", "blue box"]
    for sample in found["train"]:
        x, y, w, h = sample["objects"]["bbox"][0]
        assert red_share(np.asarray(sample["image"]), [x, y, x + w, y + h]) == 1.0
        assert sample["objects"]["category"] == [0]


def test_a_split_that_stays_empty_is_said(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(run, tmp_path / "out", "yolo", "--split", "train=0.99999,val=0.00001")
    assert "no image fell into val: give it a larger share" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["yolo", "parquet"])
def test_an_export_of_nothing_is_said(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    export(run, tmp_path / "out", to, "--boxes", "300..")
    assert capsys.readouterr().err == "labeler: warning: no image is selected, the export is empty\n"


@pytest.mark.parametrize("options", [("--threshold", "0.95"), ("--min-side", "90"), ("--score-below", "0.2")])
def test_an_export_without_a_box_is_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    export(run, tmp_path / "out", "webdataset", *options)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("labeler: warning: no box is kept")
    export(run, tmp_path / "asked", "webdataset", *options, "--boxes", "..0")
    assert capsys.readouterr().err == "", "backgrounds were asked for"


def test_a_split_without_a_box_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Detections.of([[0, 0, 9, 9]], [0.9], [3])
    some = write_run(tmp_path / "run", {(0, 0): [row(0, found), *(row(n) for n in range(1, 40))]})
    export(some, tmp_path / "out", "coco", "--split", "train=0.5,val=0.5")
    assert "warning: no box fell into" in capsys.readouterr().err


@pytest.mark.parametrize("row_group_size", [60, 5])
def test_a_parquet_file_is_gone_through_once_however_many_units_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_size: int
) -> None:
    """Its row groups are larger than a unit, so no part of it can be skipped."""
    pictures = [picture(seed, 1) for seed in range(60)]
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "images.parquet"
    pq.write_table(pa.table({"image": pa.array(pictures, pa.binary())}), file, row_group_size=row_group_size)
    run = label_folder(tmp_path / "in", tmp_path / "run", keep=(), max_bytes=3 * len(pictures[0]))
    units = len(list(Path(run.uri, "labels").rglob("*.parquet")))
    assert units >= 15
    read, real = [0], storage.read_bytes

    def counted(uri: str, **options: Any) -> bytes:
        data = real(uri, **options)
        read[0] += len(data) if uri.endswith("images.parquet") else 0
        return data

    monkeypatch.setattr(storage, "read_bytes", counted)
    out = export(run, tmp_path / "out", "webdataset")
    assert 0 < read[0] < 2 * file.stat().st_size
    with tarfile.open(next(out.glob("*.tar"))) as tar:
        assert sum(name.endswith(".jpg") for name in tar.getnames()) == 60


def test_images_in_parquet_rows_are_exported_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [picture(i) for i in range(9)], "group": ["a"] * 9})
    pq.write_table(table, tmp_path / "in" / "images.parquet", row_group_size=3)
    run = label_folder(tmp_path / "in", tmp_path / "run", keep=("group",))
    out = export(run, tmp_path / "out", "yolo", "--split", "train=0.5,val=0.5")
    found = {**check_as_ultralytics(out, "train"), **check_as_ultralytics(out, "val")}
    assert len(found) == 9


def test_from_s3_each_selected_image_is_one_request_and_the_others_none(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    for number in range(2):
        members = {f"{i:03d}.jpg": picture(10 * number + i) for i in range(8)}
        storage.put(f"{bucket}/in/part-{number}.tar", tar_bytes(members))
    run = label_folder(f"{bucket}/in", tmp_path / "run", keep=())
    tars = [f"{bucket.removeprefix('s3://')}/in/part-{number}.tar" for number in range(2)]
    before = [s3_server.gets(tar) + s3_server.ranged_gets(tar) for tar in tars]
    where = "shard_id = '000000' and \"index\" % 4 = 1"
    assert main(["export", run.uri, "--to", "webdataset", "--output", f"{bucket}/out", "--where", where]) == 0
    after = [s3_server.gets(tar) + s3_server.ranged_gets(tar) for tar in tars]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 0]
    written = sorted(info.uri.removeprefix(bucket) for info in storage.list_objects(f"{bucket}/out"))
    assert written == [
        "/out/.labeler/export.json",
        "/out/.labeler/parts/00000.json",
        "/out/README.md",
        "/out/categories.json",
        "/out/labels-00000.tar",
    ]
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(f"{bucket}/out/labels-00000.tar"))) as tar:
        assert tar.getnames() == [f"000000-00000{i}.{e}" for i in (1, 5) for e in ("jpg", "json")]


@pytest.mark.parametrize(("to", "name"), [("hf", "objects"), ("parquet", "boxes"), ("webdataset", "scores")])
def test_a_kept_column_with_a_name_of_the_format_is_refused(tmp_path: Path, to: str, name: str, capsys: Any) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0, kept={name: "x"})]}, keep=[name])
    assert main(["export", run.uri, "--to", to, "--output", str(tmp_path / "out")]) == 2
    assert f"a column '{name}' of its own" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_replaced_input_is_named_and_nothing_wrong_is_written(run: Run, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(Path(run.uri).parent, folder)
    other = red_run(tmp_path)  # the same images again, in this folder
    tar = tmp_path / "in" / "part-0.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 0xFF  # inside the first image
    tar.write_bytes(bytes(data))
    assert main(["export", other.uri, "--to", "yolo", "--output", str(tmp_path / "out")]) == 1
    assert "are not those that were labeled" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("000000-000000.*"))

"""The report's file: its numbers are the Parquet's, its images are read by range, its size keeps to its limit."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pycocotools.mask
import pytest
from PIL import Image

from labeler import storage
from labeler.cli import main
from labeler.errors import LabelerError
from labeler.evaluation import evaluate_run, operating_points
from labeler.labels.detections import Detections
from labeler.labels.thresholds import NEVER, Thresholds, as_written
from labeler.review import write_report
from labeler.review.image_bytes import ImageReader
from labeler.review.pictures import shortest
from labeler.review.truth import judge_run
from labeler.runs import Run, read_snapshot
from tests.evaluation_runs import add_masks
from tests.label_runs import export_coco
from tests.review_runs import CAP, HOSTILE, SIZE, data_of, write_input, write_run

ROOT = Path(__file__).parent.parent


def report(run: Run, target: Path, **options: Any) -> dict[str, Any]:
    options = {"thresholds": Thresholds(0.3)} | options
    write_report(read_snapshot(run), str(target), **options)
    return data_of(target.read_text())


def test_a_run_that_found_nothing_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), detect=lambda *_: Detections.empty())
    data = report(run, tmp_path / "r.html")
    assert data["statuses"] == [["empty", 24]]
    assert data["images"] == []
    assert all(category["scores"] == {} for category in data["categories"])


def test_counts_are_those_of_the_parquet(tmp_path: Path) -> None:
    failed = {"0003.jpg": ("decode_error", "broken JPEG data"), "0008.jpg": ("decode_error", "broken JPEG data")}
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), failed=failed)
    data = report(run, tmp_path / "r.html")
    rows = f"'{tmp_path}/run/labels/*/*.parquet'"
    assert dict(data["statuses"]) == dict(duckdb.sql(f"select status, count(*) from {rows} group by 1").fetchall())
    assert data["reasons"] == [["decode_error", "broken JPEG data", 2]]
    ((at_cap,),) = duckdb.sql(f"select count(*) from {rows} where len(detections) = {CAP}").fetchall()
    assert data["run"]["at_cap"] == at_cap > 0
    assert [category["id"] for category in data["categories"]] == [3, 8, 5, 6], "negatives cannot be found"
    for category in data["categories"]:
        scores = [
            score
            for (score,) in duckdb.sql(
                f"select d.score from {rows}, unnest(detections) t(d) where d.category_id = {category['id']}"
            ).fetchall()
        ]
        for threshold in np.arange(0, 101) / 100:
            kept = sum(n for step, n in category["scores"].items() if int(step) >= round(threshold * 100))
            expected = np.count_nonzero(np.asarray(scores, np.float32) >= np.float32(threshold))
            assert kept == expected, "as exports compare"


def test_every_box_of_a_shown_image_is_the_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    data = report(run, tmp_path / "r.html")
    assert len(data["images"]) > 15
    for image in data["images"]:
        shard, index = image["key"].split("/")
        where = f"'{tmp_path}/run/labels/{shard}/*.parquet' where index = {index}"
        ((found,),) = duckdb.sql(f"select detections from {where}").fetchall()
        assert len(found) == image["stored"]
        for place, id_, score, *corners in image["boxes"]:
            stored = found[place]
            assert (id_, np.float32(score)) == (stored["category_id"], np.float32(stored["score"]))
            assert corners == pytest.approx([stored[s] for s in ("x_min", "y_min", "x_max", "y_max")], abs=0.06)
        assert set(image["drawn"]) <= {box[0] for box in image["boxes"]}
        assert set(image["by_chance"]) <= set(image["drawn"])


def test_a_score_compares_in_decimal_as_it_does_in_float32() -> None:
    near = [np.nextafter(np.float32(k / 100), side) for k in range(1, 100) for side in map(np.float32, (0, 1))]
    for value in [*near, *(np.float32(k / 100) for k in range(101))]:
        for k in range(101):
            assert (shortest(value) >= k / 100) == (value >= np.float32(k / 100))


@pytest.mark.parametrize("format", ["webdataset", "images", "parquet"])
def test_thumbnails_come_from_every_kind_of_input(tmp_path: Path, format: str) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", format), format=format)
    data = report(run, tmp_path / "r.html")
    assert len(data["images"]) > 15
    for image in data["images"]:
        shown = Image.open(io.BytesIO(base64.b64decode(image["jpeg"])))
        assert shown.size == (image["width"], image["height"]) == SIZE


def test_only_the_shown_images_are_read_from_the_shards(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    run = write_run(tmp_path / "run", source)
    labels = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    before = storage.traffic().bytes_read
    data = report(run, tmp_path / "r.html", max_images=3)
    read = storage.traffic().bytes_read - before
    keys = {image["key"] for image in data["images"]}
    assert len(keys) == 3
    rows = duckdb.sql(f"select shard_id, index, length from '{tmp_path}/run/labels/*/*.parquet'").fetchall()
    shown = sum(length for shard, index, length in rows if f"{shard}/{index}" in keys)
    assert shown <= read <= shown + 3 * labels, "labels are read a few times, shards by the range of an image"
    assert read < sum(path.stat().st_size for path in source.iterdir())


def test_row_groups_are_read_once_whatever_images_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.storage.ranged_file.BLOCK_BYTES", 4096)  # as small beside this file as usual
    source = write_input(tmp_path / "in", "parquet")
    (path,) = source.iterdir()
    run = write_run(tmp_path / "run", source, format="parquet")
    labels = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())

    def read_for(images: int) -> tuple[int, list[int]]:
        before = storage.traffic().bytes_read
        shown = report(run, tmp_path / "r.html", max_images=images)["images"]
        return storage.traffic().bytes_read - before, [int(image["key"].partition("/")[2]) for image in shown]

    footer = 1 << 16  # Arrow reads that many bytes of a file's end
    everything, shown = read_for(24)
    assert len(shown) > 15
    assert shown != sorted(shown), "picks are in no order"
    assert everything <= path.stat().st_size + 3 * labels + footer
    one, (index,) = read_for(1)
    group = pq.read_metadata(path).row_group(index // 5).total_byte_size
    assert one <= group + 3 * labels + footer + 4096


def test_parquet_rows_that_are_gone_or_changed_are_said_and_the_others_shown(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", "parquet")
    (path,) = source.iterdir()
    run = write_run(tmp_path / "run", source, format="parquet")
    rows = pq.read_table(path).column("image").to_pylist()[:18]
    rows[2]["bytes"], rows[7] = None, rows[8]
    data = bytearray(pa_bytes(rows))
    snapshot = read_snapshot(run)
    plan = [replace(p, shard=replace(p.shard, size=len(data), etag=None)) for p in snapshot.plan]
    reader = ImageReader(replace(snapshot, plan=plan))
    path.write_bytes(data)
    labels = (
        duckdb.sql(f"select * from '{tmp_path}/run/labels/*/*.parquet' order by index").to_arrow_table().to_pylist()
    )
    found = list(reader.read([labels[index] for index in (1, 2, 7, 8, 17, 20)]))
    assert [str(one) if isinstance(one, LabelerError) else "" for one in found] == [
        "",
        "the row has no image",
        "the image is no longer the one that was labeled",
        "",
        "",
        "the Parquet file has fewer rows than when it was labeled",
    ]


def pa_bytes(rows: list[Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(rows)}), buffer, row_group_size=5)
    return buffer.getvalue()


def test_the_file_keeps_to_its_size_and_says_what_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    target = tmp_path / "r.html"
    summary = write_report(read_snapshot(run), str(target), thresholds=Thresholds(0.3), max_bytes=200_000)
    assert target.stat().st_size == summary.size_bytes <= 200_000
    assert summary.images > 0
    assert summary.left_out > 0
    assert len(data_of(target.read_text())["images"]) == summary.images


def test_an_image_that_is_gone_or_changed_is_said_and_not_shown(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in", "images")
    run = write_run(tmp_path / "run", source, format="images")
    (source / "0000.jpg").unlink()
    changed = bytearray((source / "0001.jpg").read_bytes())
    changed[-3] ^= 1
    (source / "0001.jpg").write_bytes(bytes(changed))
    images = {image["name"]: image for image in report(run, tmp_path / "r.html")["images"]}
    assert "jpeg" not in images["0000.jpg"]
    assert "no longer the one" in images["0001.jpg"]["problem"]
    assert "jpeg" in images["0002.jpg"]


def test_hostile_names_are_only_data(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    data = report(run, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img src" not in text
    assert data["categories"][2]["name"] == HOSTILE
    assert any(image["name"].endswith("<b>&amp;.jpg") for image in data["images"])
    assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), "nothing is loaded from elsewhere"


def test_masks_come_at_thumbnail_size(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), change=add_masks)
    image = next(image for image in report(run, tmp_path / "r.html")["images"] if image["boxes"])
    assert len(image["masks"]) == len(image["boxes"])
    for (*_, x0, y0, x1, y1), mask in zip(image["boxes"], image["masks"], strict=True):
        height, width = mask["size"]
        ys, xs = np.nonzero(pycocotools.mask.decode(mask))
        # add_masks draws on a square of 400 pixels, whatever the image
        assert np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) == pytest.approx(
            np.array([x0, y0, x1, y1]) * np.tile([width / 400, height / 400], 2), abs=1.5
        )


def test_suspicious_images_are_found(tmp_path: Path) -> None:
    calls = Counter[str]()

    def detect(rng: np.random.Generator, item: Any) -> Detections:
        calls["images"] += 1
        if item.key == "0004.jpg":
            return Detections.of([[0, 0, *SIZE]], [0.8], [3])
        if item.key == "0005.jpg":
            return Detections.of(rng.uniform([0, 0, 60, 60], 100, (CAP, 4)), np.full(CAP, 0.5), [8] * CAP)
        return Detections.of([[140, 100, 158, 118]], [0.6], [5]) if item.key > "0010" else Detections.empty()

    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), detect=detect)
    by_reason: dict[str, set[str]] = {}
    for image in report(run, tmp_path / "r.html")["images"]:
        for reason in image["reasons"]:
            by_reason.setdefault(reason, set()).add(image["name"].rpartition("/")[2])
    assert calls["images"] == 24
    assert by_reason["whole"] == {"0004.jpg"}
    assert by_reason["cap"] == {"0005.jpg"}
    assert "0005.jpg" in by_reason["many"]
    assert by_reason["repeated"] <= {f"{i:04d}.jpg" for i in range(10, 24)} | {"<b>&amp;.jpg"}
    assert by_reason["repeated"]


def one_each(rng: np.random.Generator, item: Any) -> Detections:
    """A cat over the whole image and a dog in a corner, the same everywhere."""
    return Detections.of([[0, 0, *SIZE], [100, 80, 150, 110]], [0.9, 0.5], [3, 8])


@pytest.mark.parametrize(
    ("thresholds", "reasons"),
    [
        (Thresholds(1.0, {3: 0.6, 8: 0.4}), {"many", "whole", "repeated"}),
        (Thresholds(1.0, {8: 0.4}), {"many", "repeated"}),
        (Thresholds(1.0, {3: 0.6}), {"many", "whole"}),
        (Thresholds(1.0, {3: 1.0}), {"many", "whole", "repeated"}),
        (Thresholds(0.3, {3: 1.0, 8: 1.0}), set()),
        (Thresholds(NEVER, {3: NEVER}), {"many", "whole", "repeated"}),
        (Thresholds(0.3, {3: NEVER, 8: NEVER}), set()),
    ],
)
def test_suspicions_follow_each_categorys_threshold(tmp_path: Path, thresholds: Thresholds, reasons: set[str]) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), detect=one_each)
    data = report(run, tmp_path / "r.html", thresholds=thresholds)
    assert {reason for image in data["images"] for reason in image["reasons"]} == reasons
    assert data["thresholds"]["default"] == as_written(thresholds.default), "the sliders are where the file says"


def test_errors_follow_each_categorys_threshold(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), detect=one_each)
    export_coco(read_snapshot(run), str(tmp_path / "gt.json"))
    truth = json.loads((tmp_path / "gt.json").read_text())
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 8]  # dogs are right, cats wrong

    def errors(thresholds: Thresholds) -> set[int]:
        judged = judge_run(read_snapshot(run), truth, thresholds=thresholds)
        return set(judged.errors[0].tolist())  # category position * 2, + 1 for misses

    places = {id_: place for place, id_ in enumerate(sorted(category["id"] for category in truth["categories"]))}
    assert errors(Thresholds(1.0, {3: 0.6, 8: 0.4})) == {2 * places[3]}
    assert errors(Thresholds(1.0, {8: 0.6})) == {2 * places[8] + 1}


def truth_of(run: Run, path: Path, *, drop: int = 4) -> Path:
    """The run's own export without every `drop`-th object, with crowds, and with an object nobody found."""
    export_coco(read_snapshot(run), str(path), thresholds=Thresholds(0.4))
    values = json.loads(path.read_text())
    values["annotations"] = [a for i, a in enumerate(values["annotations"]) if i % drop]
    first = values["images"][0]["id"]
    for place, image in enumerate(values["images"][::2]):  # a crowd of cats over most of the image
        crowd = {"id": 10**7 + place, "image_id": image["id"], "category_id": 3, "bbox": [0, 0, 90, 80], "iscrowd": 1}
        values["annotations"].append(crowd)
    values["annotations"].append({"id": 10**6, "image_id": first, "category_id": 6, "bbox": [1, 1, 9, 9], "iscrowd": 0})
    path.write_text(json.dumps(values))
    return path


def test_curves_are_those_of_evaluate(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    annotations = truth_of(run, tmp_path / "gt.json")
    data = report(run, tmp_path / "r.html", annotations=str(annotations))
    (score,) = evaluate_run(run.uri, str(annotations)).scores
    points = operating_points.micro(score, floor=0.05)
    assert data["truth"]["AP"] == score.summary()["AP"]
    assert [point[2] for point in data["truth"]["all"]] == pytest.approx(points.recall.tolist(), abs=1e-4)
    assert data["truth"]["categories"]["6"]["objects"] == 1
    shown = next(image for image in data["images"] if image["key"] == "000000/0")
    assert [6, 1, 1, 10, 10, 0] in shown["truth"], "an image with a miss is shown"


def test_annotations_are_read_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    annotations = truth_of(run, tmp_path / "gt.json")
    annotations.write_text(annotations.read_text() + " " * 2**21)
    snapshot, before = read_snapshot(run), storage.traffic().bytes_read
    judge_run(snapshot, str(annotations), thresholds=Thresholds(0.3))
    assert storage.traffic().bytes_read - before < 1.5 * annotations.stat().st_size


@pytest.mark.parametrize("federated", [False, True])
def test_errors_are_those_of_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, federated: bool) -> None:
    monkeypatch.setattr("labeler.review.truth._EACH", 10**6)
    run = write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"))
    truth = json.loads(truth_of(run, tmp_path / "gt.json").read_text())
    if federated:
        for image in truth["images"]:
            image |= {"neg_category_ids": [8], "not_exhaustive_category_ids": [5]}
        for annotation in truth["annotations"][::3]:
            annotation["ignore"] = 1
    for threshold in (0.1, 0.3, 0.6):
        judged = judge_run(read_snapshot(run), truth, thresholds=Thresholds(threshold))
        score, place = evaluate_run(run.uri, truth).scores[0], round(threshold * 100) - 1
        assert score.rules.federated == federated
        groups = np.bincount(judged.errors[0], minlength=2 * len(score.objects))
        assert groups[::2].tolist() == score.false_positives[:, place].tolist()
        assert groups[1::2].tolist() == (score.objects - score.true_positives[:, place]).tolist()
        assert groups[::2].sum() > 0 or threshold > 0.1, "there is something to count"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "is not a labeler run"),
        (("unfinished",), "incomplete"),
        (("run", "--threshold", "2"), "score from 0 to 1"),
        (("run", "--images", "-1"), "0 or more"),
        (("run", "--annotations", "other.json"), "are for other images"),
        (("run", "--annotations", "names.json"), "did you mean cat?"),
        (("run", "--thresholds", "other.yaml"), "were fitted on vocabulary abc"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    source = write_input(tmp_path / "in", "webdataset")
    run = write_run(tmp_path / "run", source)
    write_run(tmp_path / "unfinished", source, finished=False)
    truth = json.loads(truth_of(run, tmp_path / "gt.json").read_text())
    renamed = [
        category | {"name": f"{category['name']}x", "id": category["id"] + 50} for category in truth["categories"]
    ]
    moved = [a | {"category_id": a["category_id"] + 50} for a in truth["annotations"]]
    (tmp_path / "names.json").write_text(json.dumps(truth | {"categories": renamed, "annotations": moved}))
    elsewhere = [image | {"file_name": f"else/{image['id']}.bmp"} for image in truth["images"]]
    (tmp_path / "other.json").write_text(json.dumps(truth | {"images": elsewhere}))
    (tmp_path / "other.yaml").write_text("default: 0.3\nfitted_on: {vocabulary: abc}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / arguments[0] / "report.html").exists()


def test_the_command_writes_into_the_run_and_a_partial_one_when_asked(tmp_path: Path) -> None:
    write_run(tmp_path / "run", write_input(tmp_path / "in", "webdataset"), finished=False)
    command = [sys.executable, "-m", "jobs.report", str(tmp_path / "run"), "--partial", "--images", "2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "2 images" in result.stdout
    assert data_of((tmp_path / "run" / "report.html").read_text())["run"]["complete"] is False

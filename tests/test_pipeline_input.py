"""Runs over inputs that lie a little differently: what is skipped, shards of one name, nothing to label."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.cli import main
from labeler.errors import Incomplete, Refused
from labeler.runs import open_run, read_progress
from labeler.runs.plan import read_plan
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.test_pipeline import config_of, files_of, rows_of, run_quietly

pytestmark = pytest.mark.usefixtures("local_ray")


def test_what_is_skipped_is_in_the_markers_and_in_the_report(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=2, images=3)
    members = {
        "a.png": image_bytes(1),
        "a.json": b"{}",
        "b.jxl": b"\xff\x0a",
        "README": b"x",
        "nameless": image_bytes(2),
    }
    (source / "00002.tar").write_bytes(tar_bytes(members))
    (source / "index.csv").write_text("a,b\n")
    outcome = run_quietly(config_of(source, tmp_path / "out", checkpoint))
    assert outcome.report.skipped_files == {"csv": 1, "json": 1, "jxl": 1, "no extension": 1}
    assert json.loads((tmp_path / "out/report.json").read_text())["skipped_files"] == outcome.report.skipped_files
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out/shards").iterdir()}
    assert [size > 0 for _, size in sorted(sizes.items())] == [False, False, True]
    assert [Path(uri).name for uri in read_progress(outcome.run).marker_uris] == ["000002-1-2"]
    assert [row["image_key"] for row in rows_of(tmp_path / "out")][-2:] == ["a.png", "nameless"]


def test_a_damaged_marker_is_one_line(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=3)
    run_quietly(config_of(source, tmp_path / "out", checkpoint))
    (marker,) = (tmp_path / "out/shards").iterdir()
    marker.write_bytes(b"{")
    assert main(["status", str(tmp_path / "out"), "--verify"]) == 1
    assert f"problem  {marker} is damaged" in capsys.readouterr().out


def test_an_input_whose_shards_hold_no_image_is_refused_and_nothing_is_written(
    tmp_path: Path, checkpoint: Path
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(30):
        (tmp_path / f"in/{i:02d}.tar").write_bytes(tar_bytes({"a.json": b"{}"}))
    said = r"no image in the input: 20 of 30 shards were read to their ends; they hold json 20; check"
    with pytest.raises(Refused, match=said):
        run_quietly(config_of(tmp_path / "in", tmp_path / "out", checkpoint))
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_tars_are_refused_with_their_reason(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(Refused, match=r"1 of 1 shards .* \(.*0\.tar: corrupt tar header\); check"):
        run_quietly(config_of(tmp_path / "in", tmp_path / "out", checkpoint))


def test_a_run_that_ends_without_an_image_is_not_complete(tmp_path: Path, checkpoint: Path) -> None:
    """Its only image went between planning and reading."""
    source = write_tars(tmp_path / "in", shards=1, images=1)
    config = config_of(source, tmp_path / "out", checkpoint)
    run_quietly(config)
    run = open_run(str(tmp_path / "out"))
    assert run is not None
    (tmp_path / "out/labels/000000/000000.parquet").unlink()
    (tmp_path / "out/shards/000000-1-1").rename(tmp_path / "out/shards/000000-0-0")
    (tmp_path / "out/shards/000000-0-0").write_bytes(b'{"json":3}')
    with pytest.raises(Incomplete, match="ended without an image; its input holds json 3"):
        run_quietly(config)


def test_two_shards_of_one_name_are_told_apart_everywhere(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, seed in (("cc12m", 1), ("laion", 2)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        data = tar_bytes({f"{i}.png": image_bytes(10 * seed + i) for i in range(3)})
        (tmp_path / "in" / folder / "00000.tar").write_bytes(data)
    out = tmp_path / "out"
    run_quietly(config_of(tmp_path / "in", out, checkpoint))
    names = [f"{folder}/00000.tar/{i}.png" for folder in ("cc12m", "laion") for i in range(3)]
    coco = tmp_path / "coco.json"
    assert main(["export", str(out), "--to", "coco", "--threshold", "0", "--output", str(coco)]) == 0
    exported = json.loads(coco.read_text())
    assert [image["file_name"] for image in exported["images"]] == names
    for format in ("yolo", "webdataset", "odvg"):
        target = tmp_path / format
        assert main(["export", str(out), "--to", format, "--threshold", "0", "--output", str(target)]) == 0
    assert len(list((tmp_path / "yolo").rglob("*.png"))) == 6
    assert main(["evaluate", str(out), "--annotations", str(coco)]) == 0
    (tmp_path / "keys.txt").write_text(names[4])
    assert main(["forget", str(out), "--keys", str(tmp_path / "keys.txt")]) == 0
    assert [row["status"] for row in rows_of(out)] == ["labeled"] * 4 + ["removed", "labeled"]


@pytest.mark.slow
def test_names_of_shards_stay_when_the_bucket_grows(tmp_path: Path, checkpoint: Path) -> None:
    source, out = write_tars(tmp_path / "in/laion", shards=1, images=2).parent, tmp_path / "out"
    config = config_of(source, out, checkpoint)
    run_quietly(config)
    write_tars(source / "cc12m", shards=1, images=2, first=0)
    outcome = run_quietly(config, extend=True)
    assert [planned.shard.name for planned in read_plan(outcome.run)] == ["00000.tar", "cc12m/00000.tar"]


def test_base64_columns_are_labeled_and_exported(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    texts = [base64.b64encode(image_bytes(i)).decode() for i in range(3)]
    pq.write_table(pa.table({"image": texts}), tmp_path / "in/0.parquet")
    outcome = run_quietly(config_of(tmp_path / "in", tmp_path / "out", checkpoint))
    assert outcome.report.statuses == {"labeled": 3}
    target = tmp_path / "yolo"
    assert main(["export", str(tmp_path / "out"), "--to", "yolo", "--threshold", "0", "--output", str(target)]) == 0
    pictures = sorted(path.read_bytes() for path in target.rglob("*.png"))
    assert pictures == sorted(image_bytes(i) for i in range(3))
    assert main(["report", str(tmp_path / "out"), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().count('"jpeg":"/9j/') == 3


def test_a_parquet_file_without_images_is_left_out_where_the_user_says_so(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"score": [1.0]}), tmp_path / "in/0.parquet")
    pq.write_table(pa.table({"image": [image_bytes(1)]}), tmp_path / "in/1.parquet")
    with pytest.raises(Refused, match=r"0\.parquet has no column of images"):
        run_quietly(config_of(tmp_path / "in", tmp_path / "out", checkpoint))
    assert not files_of(tmp_path) or not (tmp_path / "out").exists()
    config = config_of(tmp_path / "in", tmp_path / "out", checkpoint, "input.skip_without_images=true")
    outcome = run_quietly(config)
    assert (outcome.report.images, outcome.report.skipped_files) == (1, {"Parquet without images": 1})


def test_what_is_excluded_after_a_run_was_complete_is_named_at_its_end(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_tars(tmp_path / "in", shards=1, images=3), tmp_path / "out"
    assert run_quietly(config_of(source, out, checkpoint)).report.images_to_forget == 0
    (tmp_path / "names.txt").write_text("00000.tar/000_0001.png\n")
    again = config_of(source, out, checkpoint, f"input.exclude=[{tmp_path}/names.txt]")
    assert run_quietly(again).report.images_to_forget == 1
    assert main(["forget", str(out)]) == 0
    assert [row["status"] for row in rows_of(out)] == ["labeled", "removed", "labeled"]
    assert run_quietly(again).report.images_to_forget == 0

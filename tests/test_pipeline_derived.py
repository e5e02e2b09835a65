"""`labeler retry` and `labeler mask` on a real local Ray: derived runs, and readers that lay them over their parent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from labeler.cli import main
from labeler.errors import LabelerError, Refused
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.pipeline.derive import retry
from labeler.pipeline.redo import Redo, Todo
from labeler.pipeline.session import Outcome
from labeler.pipeline.source import ReadSettings, ShardWork, units_of
from labeler.runs import Run, open_run, read_plan, read_progress
from labeler.runs.erasure.erase import forget
from labeler.shards import Item, Unit
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.segmenter_parts import tiny_sam
from tests.stub_detector import MakeStub
from tests.test_pipeline import config_of, files_of, rows_of, run_quietly

pytestmark = pytest.mark.usefixtures("local_ray")

BAD = 77  # the width of images that the first detector has no answer for


def require(folder: Path) -> Run:
    run = open_run(str(folder))
    assert run is not None
    return run


def retry_quietly(folder: Path, *statuses: str, to: str = "again", **options: Any) -> Outcome | None:
    options.setdefault("make_detector", MakeStub())
    target = str(folder.parent / to)
    return retry(require(folder), statuses, target, console=Console(quiet=True), **options)


def failed_run(folder: Path, checkpoint: Path, *overrides: str) -> Path:
    """Three shards of ten in units of four; the first is sound, the others have three bad images in two units."""
    source = write_tars(folder / "in", shards=1, images=10)
    for shard in (1, 2):
        members = {f"{i}.png": image_bytes(100 * shard + i, width=BAD if i in (1, 2, 9) else 40) for i in range(10)}
        (source / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    config = config_of(source, folder / "out", checkpoint, *overrides)
    outcome = run_quietly(config, make_detector=MakeStub(fail_on_width=BAD))
    assert outcome.report.statuses == {"labeled": 24, "detect_error": 6}
    return folder / "out"


def test_nothing_to_retry_writes_nothing(tmp_path: Path, checkpoint: Path) -> None:
    run_quietly(config_of(write_tars(tmp_path / "in", shards=1, images=3), tmp_path / "out", checkpoint))
    assert retry_quietly(tmp_path / "out", "read_error", "quarantined") is None
    assert not (tmp_path / "again").exists()


def test_what_failed_is_labeled_anew_and_all_else_is_taken_over(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = failed_run(tmp_path, checkpoint)
    before, rows = files_of(out), rows_of(out)
    log = tmp_path / "log"
    outcome = retry_quietly(out, "detect_error", make_detector=MakeStub(log=str(log)))
    assert outcome is not None
    assert outcome.report.statuses == {"labeled": 30}
    assert outcome.report.complete
    assert log.read_text().count("1") == 6, "only what failed was looked at"
    after = files_of(out)
    assert [name for name in after if name not in before] == [f"derived/{outcome.run.manifest.run_id}"]
    assert {name: after[name] for name in before} == before, "the run itself stays as it is"
    units = {f"labels/00000{shard}/00000{unit}.parquet" for shard in (1, 2) for unit in (0, 2)}
    written = set(files_of(tmp_path / "again"))
    assert {name for name in written if not name.startswith("receipts/")} == units | {
        "run.json", "vocabulary.json", "prompts.json", "selection.parquet", "report.json"
    }  # fmt: skip
    assert json.loads((tmp_path / "again/run.json").read_text())["parent"]["run_id"] == require(out).manifest.run_id
    for old, new in zip(rows, rows_of(tmp_path / "again"), strict=True):
        if old["status"] == "labeled":
            assert new == old
        else:
            assert (new["image_key"], new["index"], new["digest"]) == (old["image_key"], old["index"], old["digest"])
            assert (new["status"], new["error"], len(new["detections"])) == ("labeled", None, 1)

    # Readers take both as one run.
    assert main(["export", str(tmp_path / "again"), "--to", "coco"]) == 0
    assert len(json.loads((tmp_path / "again/exports/coco.json").read_text())["annotations"]) == 30
    assert main(["report", str(tmp_path / "again")]) == 0
    assert main(["compare", str(out), str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path / "again"), "--verify"]) == 0
    printed = capsys.readouterr().out
    assert f"parent   {out}, 0 units pending" in printed
    assert "rows     30: labeled 30" in printed

    # A derived run can lose a part, resume, and be a parent run.
    (tmp_path / "again/labels/000002/000002.parquet").unlink()
    assert main(["status", str(tmp_path / "again")]) == 1
    kept = files_of(tmp_path / "again/labels")
    retry_quietly(out, "detect_error")
    assert {name: files_of(tmp_path / "again/labels")[name] for name in kept} == kept
    assert main(["status", str(tmp_path / "again")]) == 0
    assert retry_quietly(tmp_path / "again", "detect_error", to="third") is None

    # What is forgotten is forgotten in both, whichever is named.
    forgotten = forget(require(tmp_path / "again"), ["00001.tar/2.png", "00001.tar/3.png", "00000.tar/000_0000.png"])
    assert (forgotten.images, forgotten.units) == (3, 3)
    assert forgotten.runs == [str(out), str(tmp_path / "again")]
    for folder in (out, tmp_path / "again"):
        gone = [(row["shard_id"], row["index"]) for row in rows_of(folder) if row["status"] == "removed"]
        assert gone == [("000000", 0), ("000001", 2), ("000001", 3)]


@pytest.mark.slow
def test_what_came_after_a_retry_is_named_with_the_command_for_it(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = failed_run(tmp_path, checkpoint)
    retry_quietly(out, "detect_error")
    assert main(["status", str(tmp_path / "again"), "--verify"]) == 0
    members = {f"{i}.png": image_bytes(300 + i, width=BAD if i == 1 else 40) for i in range(5)}
    (tmp_path / "in/00003.tar").write_bytes(tar_bytes(members))
    config = config_of(tmp_path / "in", out, checkpoint)
    run_quietly(config, extend=True, make_detector=MakeStub(fail_on_width=BAD))
    capsys.readouterr()
    again = tmp_path / "again"
    assert main(["status", str(again), "--verify"]) == 1
    assert "problem  1 units with images of status detect_error" in capsys.readouterr().out
    command = f"labeler retry {again} --status detect_error --output {again}-2"
    with pytest.raises(Refused, match=rf"again is complete, but 1 units .*: {command}"):
        retry_quietly(out, "detect_error")
    outcome = retry_quietly(again, "detect_error", to="again-2")
    assert outcome is not None
    assert outcome.report.statuses == {"labeled": 35}
    assert main(["status", str(tmp_path / "again-2"), "--verify"]) == 0


@pytest.mark.slow
def test_a_retry_of_a_retry_lies_over_both(tmp_path: Path, checkpoint: Path) -> None:
    out = failed_run(tmp_path, checkpoint, "detect.max_pixels=3000")
    assert retry_quietly(out, "detect_error", make_detector=MakeStub(fail_on_width=BAD)) is not None
    outcome = retry_quietly(tmp_path / "again", "detect_error", to="third")
    assert outcome is not None
    assert outcome.report.statuses == {"labeled": 30}
    assert [folder for folder, _ in read_progress(outcome.run).folders] == [
        str(tmp_path / name) for name in ("third", "again", "out")
    ]
    shutil.move(out, tmp_path / "elsewhere")
    with pytest.raises(Refused, match=r"derives from run .* not in .*out any more"):
        open_run(str(tmp_path / "third"))


@pytest.mark.slow
def test_images_that_were_too_large_are_labeled_with_a_higher_limit(tmp_path: Path, checkpoint: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(6):
        (source / f"{i}.png").write_bytes(image_bytes(i, width=80 if i == 4 else 40))
    config = config_of(source, tmp_path / "out", checkpoint, "detect.max_pixels=2000")
    assert run_quietly(config).report.statuses == {"labeled": 5, "too_large": 1}
    with pytest.raises(Refused, match="another fingerprint") as refused:
        retry_quietly(tmp_path / "out", "too_large", overrides=["detect.max_pixels=9000", "detect.score_floor=0.2"])
    assert [line.split(":")[0] for line in refused.value.problems] == ["detect.score_floor"]
    assert not (tmp_path / "again").exists()
    outcome = retry_quietly(tmp_path / "out", "too_large", overrides=["detect.max_pixels=9000"])
    assert outcome is not None
    assert outcome.report.statuses == {"labeled": 6}
    with pytest.raises(Refused, match="another fingerprint"):
        retry_quietly(tmp_path / "out", "too_large", "decode_error")  # that folder holds another retry


def test_what_cannot_be_retried_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_quietly(config_of(write_tars(tmp_path / "in", shards=1, images=3), tmp_path / "out", checkpoint))
    assert main(["retry", str(tmp_path / "out"), "--status", "labeled"]) == 2
    assert "cannot retry status 'labeled'; choose from decode_error," in capsys.readouterr().err
    (tmp_path / "out/shards/000000-1-3").unlink()
    assert main(["retry", str(tmp_path / "out"), "--status", "read_error"]) == 2
    assert "has 1 unfinished shards; finish it first" in capsys.readouterr().err
    assert main(["retry", str(tmp_path / "in"), "--status", "read_error"]) == 2
    assert "is not a labeler run" in capsys.readouterr().err


def test_a_row_that_names_another_image_than_the_shard_holds_is_never_made_anew(
    tmp_path: Path, checkpoint: Path
) -> None:
    out = failed_run(tmp_path, checkpoint)
    planned = read_plan(require(out))[1]
    settings = ReadSettings(str(out), 4, 2**26, 2**28, (), None)
    redo = Redo((str(out),), ("detect_error",))
    units = list(units_of(ShardWork(planned, only=frozenset({0, 2})), settings))
    assert [unit.unit for unit in units] == [0, 2]
    todo = redo.of(units[0])
    assert [item.index for item in todo.unit.items] == [1, 2]
    assert todo.others is not None
    assert todo.others["index"].to_pylist() == [0, 3]
    other = replace(units[0], items=tuple(replace(item, key="x" + item.key) for item in units[0].items))
    with pytest.raises(LabelerError, match="does not hold the images that its rows name"):
        redo.of(other)
    with pytest.raises(LabelerError, match="has no unit 5 any more"):
        list(units_of(ShardWork(planned, only=frozenset({2, 5})), settings))


@pytest.mark.slow  # three runs with real models; what one worker makes of stored boxes is in test_masks_in_runs
def test_masks_for_stored_boxes_are_those_of_a_run_that_made_them_at_once(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=3)
    (source / "00001.tar").write_bytes(tar_bytes({"a.png": image_bytes(7), "b.png": b"no image"}))
    sam = f"masks.model={tiny_sam('sam2')}"
    run_quietly(config_of(source, tmp_path / "at-once", checkpoint, "detect.max_detections=3", sam))
    run_quietly(config_of(source, tmp_path / "out", checkpoint, "detect.max_detections=3"))
    boxes, before = rows_of(tmp_path / "out"), files_of(tmp_path / "out")
    assert main(["mask", str(tmp_path / "out"), sam]) == 0
    assert "complete: 5 images in 2 shards: labeled 4, decode_error 1" in capsys.readouterr().out
    masked = rows_of(tmp_path / "out-masks")
    assert masked == rows_of(tmp_path / "at-once")
    found = [d for row in masked for d in row["detections"]]
    assert len(found) == 4
    assert all(detection["mask"]["counts"] for detection in found)
    for row in masked:
        for detection in row["detections"]:
            detection["mask"] = None
    assert masked == boxes
    assert {name: files_of(tmp_path / "out")[name] for name in before} == before


def test_a_mask_run_that_decides_nothing_about_masks_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_quietly(config_of(write_tars(tmp_path / "in", shards=1, images=3), tmp_path / "out", checkpoint))
    assert main(["mask", str(tmp_path / "out")]) == 2
    assert "no model makes masks: name one of the SAM family" in capsys.readouterr().err
    assert main(["mask", str(tmp_path / "out"), f"masks.model={tiny_sam('sam')}", "detect.score_floor=0.2"]) == 2
    assert "'detect.score_floor=0.2' decides nothing about masks" in capsys.readouterr().err
    assert not (tmp_path / "out-masks").exists()


def test_what_becomes_of_an_image_now_never_costs_it_its_boxes() -> None:
    found = Detections.of([[1, 2, 3, 4]], [0.5], [1])
    earlier = Row("a.png", "000000", 4, "u", "labeled", digest="d", width=9, height=8, detections=found)
    todo = Todo(Unit("000000", 0, (Item("a.png", 4, "u", 0, 1, b"x", found=found),)), None, {4: earlier})
    dead = Row("a.png", "000000", 4, "u", "quarantined", error="crashed its process")
    assert todo.settle([dead]) == [replace(earlier, error="no masks: crashed its process")]
    more = Detections.of([[1, 2, 3, 4]], [0.5], [1])
    assert todo.settle([replace(earlier, phash=7, detections=more)]) == [replace(earlier, detections=more)]
    assert Todo(todo.unit).settle([dead]) == [dead], "a retry takes the row as it is now"

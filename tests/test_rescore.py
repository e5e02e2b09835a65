"""Rescored runs, with real models and without Ray: rows, resume, other derived runs, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labeler.cli import main
from labeler.config import make_config
from labeler.errors import Refused
from labeler.labeling.recipe import labeler_recipe
from labeler.labels.detections import Detections
from labeler.labels.records import Row, table_to_rows
from labeler.labels.revised import CHANGED, CUT
from labeler.pipeline.derive import rescore, rescore_job, retry
from labeler.pipeline.redo import MASKS, SECOND_SCORES, Todo
from labeler.rescorers import Rescorer, resolve_rescorer
from labeler.rescorers.texts import make_texts
from labeler.runs import Run, read_snapshot
from labeler.runs.overlay.derived import describe_unselected
from labeler.shards import Unit
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.label_runs import row, write_run
from tests.labeled_here import label_here, rescore_here
from tests.rescorer_parts import tiny_rescorer
from tests.segmenter_parts import tiny_sam

CLIP = f"rescore.model={tiny_rescorer('clip')}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Run:
    """Six images in units of two, one of which cannot be decoded; up to five boxes each."""
    folder = tmp_path_factory.mktemp("rescore")
    write_tars(folder / "in", shards=1, images=4)
    (folder / "in/00001.tar").write_bytes(tar_bytes({"a.png": image_bytes(7), "b.png": b"no image"}))
    values = {
        "input": str(folder / "in"),
        "output": str(folder / "out"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint), "device": "cpu"},
        "unit": {"max_images": 2},
        "detect": {"score_floor": 0.0, "max_detections": 5},
    }
    return label_here(make_config(values))


def rows_of(run: Run) -> list[Row]:
    return [found for table in read_snapshot(run).tables() for found in table_to_rows(table)]


def found_of(run: Run) -> list[Detections]:
    return [found.detections for found in rows_of(run)]


def test_every_box_of_a_run_gets_the_score_of_its_crop_and_all_else_stays(tmp_path: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in Path(run.uri).rglob("*") if path.is_file()}
    target = str(tmp_path / "rescored")
    rescore_here(run, target, CLIP, "rescore.margin=0.25", units=1)  # killed
    assert main(["status", target]) == 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "rescored").rglob("*.parquet")}
    made = rescore_here(run, target, CLIP, "rescore.margin=0.25")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main(["status", target, "--verify"]) == 0
    assert {path: path.read_bytes() for path in before} == before

    checkpoint_ = resolve_rescorer(tiny_rescorer("clip"))
    alone = Rescorer(checkpoint_, make_texts(checkpoint_, run.vocabulary()), device="cpu", threads=1, margin=0.25)
    for old, new in zip(rows_of(run), rows_of(made), strict=True):
        if old.status != "labeled":
            assert new == replace(old, detections=new.detections)
            continue
        pixels = _pixels(old)
        expected = alone.rescore(pixels, old.detections).more["score2"]
        np.testing.assert_allclose(new.detections.more["score2"], expected, atol=1e-6)
        np.testing.assert_array_equal(new.detections.scores, old.detections.scores)
        np.testing.assert_array_equal(new.detections.boxes, old.detections.boxes)
        assert replace(new, detections=old.detections) == old
    assert f"redo them with: labeler rescore {target} --output {target}-2" in describe_unselected(made, 1)
    manifest = json.loads((tmp_path / "rescored/run.json").read_text())
    fields = manifest["fingerprint_fields"]
    assert (fields["columns"], fields["schema_version"]) == (["score2"], 3)
    assert (fields["rescore"], fields["rescore.margin"]) == (checkpoint_.digest, 0.25)
    plain = json.loads(Path(run.uri, "run.json").read_text())
    assert "rescore" not in plain["config"]
    assert not [name for name in plain["fingerprint_fields"] if name.startswith("rescore")]


def _pixels(row: Row) -> np.ndarray:
    with Path(row.uri).open("rb") as file:
        assert row.offset is not None
        file.seek(row.offset)
        return np.asarray(Image.open(io.BytesIO(file.read(row.length))).convert("RGB"))


def test_what_decides_a_second_score_is_in_the_fingerprint_and_speed_is_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0, Detections.of([[1, 2, 30, 40]], [0.5], [3]))]})
    run = _with_whole_config(run)
    plain = rescore_job(run, str(tmp_path / "to"), [CLIP])
    assert plain.fields["columns"] == ["score2"]
    cases = {
        f"rescore.model={tiny_rescorer('siglip')}": {"rescore", "rescore.prompts"},
        "rescore.margin=0.5": {"rescore.margin"},
        "rescore.templates=['{}', 'the {}']": {"rescore.prompts"},
        "rescore.background=[sky]": {"rescore.prompts"},
        "rescore.boxes_per_batch=3": set(),
    }
    for override, differing in cases.items():
        other = rescore_job(run, str(tmp_path / "to"), [CLIP, override]).fields
        assert {name for name in other if other[name] != plain.fields.get(name)} == differing


def test_stored_boxes_of_a_tiled_run_are_scored_in_the_whole_image(tmp_path: Path) -> None:
    run = _with_whole_config(write_run(tmp_path / "run", {(0, 0): [row(0)]}), detect={"tile": 800})
    job = rescore_job(run, str(tmp_path / "to"), [CLIP])
    assert job.config.detect.tiling is not None
    assert labeler_recipe(job).tiling is None


def _with_whole_config(run: Run, **more: Any) -> Run:
    config = {"input": "in", "output": "out", "vocabulary": ["cat"], "model": {"name": "tiny"}, **more}
    return replace(run, manifest=replace(run.manifest, config=make_config(config).model_dump(mode="json")))


@pytest.mark.slow
def test_a_rescored_run_can_be_rescored_again_and_is_not_retried(tmp_path: Path, run: Run) -> None:
    first = rescore_here(run, str(tmp_path / "first"), CLIP)
    second = rescore_here(first, str(tmp_path / "second"), f"rescore.model={tiny_rescorer('siglip')}")
    direct = rescore_here(run, str(tmp_path / "direct"), f"rescore.model={tiny_rescorer('siglip')}")
    for again, once, other in zip(found_of(second), found_of(direct), found_of(first), strict=True):
        if len(once):
            np.testing.assert_array_equal(again.more["score2"], once.more["score2"])
            assert (again.more["score2"] != other.more["score2"]).any()
    with pytest.raises(
        Refused, match="has second scores, and new boxes would have none; retry the run that it derives"
    ):
        retry(second, ["decode_error"], str(tmp_path / "again"))


def test_an_image_that_cannot_be_scored_keeps_its_boxes_and_says_why() -> None:
    found = Detections.of([[1, 2, 3, 4], [5, 5, 9, 9]], [0.5, 0.4], [1, 1])
    scored = replace(found, more={"score2": np.array([0.25, np.nan], np.float32)})
    earlier = Row("a.png", "000000", 4, "u", "labeled", digest="d", width=9, height=8, detections=found, error=CUT)
    todo = Todo(Unit("000000", 0, ()), None, {4: earlier}, adds=SECOND_SCORES)

    def settled(now: Row, todo: Todo = todo) -> tuple[str, str | None, bool]:
        (made,) = todo.settle([now])
        return made.status, made.error, "score2" in made.detections.more

    assert settled(replace(earlier, detections=scored)) == (
        "labeled", f"{CUT}; no second score for 1 of 2 boxes", True
    )  # fmt: skip
    assert settled(replace(earlier, detections=scored[:1])) == ("labeled", CUT, True)
    dead = replace(earlier, status="read_error", error="gone")
    assert settled(dead) == ("labeled", f"{CUT}; no second score: gone", False)
    other = replace(earlier, digest="e", detections=scored)
    assert settled(other) == ("labeled", f"{CUT}; no second score: {CHANGED}", False)
    # Messages about earlier second scores are removed with them, and masks keep the rest.
    again = replace(earlier, error="no second score: gone")
    assert settled(replace(earlier, detections=scored[:1]), Todo(todo.unit, None, {4: again}, adds=SECOND_SCORES)) == (
        "labeled", None, True
    )  # fmt: skip
    masked = Todo(todo.unit, None, {4: replace(earlier, error=f"{CUT}; no second score: gone")}, adds=MASKS)
    assert masked.settle([replace(dead, detections=found)])[0].error == f"{CUT}; no masks: gone; no second score: gone"


def test_bad_input_is_one_line_and_exit_code_2_before_anything_is_written(
    tmp_path: Path, checkpoint: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(tiny_rescorer("clip"), tmp_path / "bare"))
    (bare / "vocab.json").unlink()
    cases = {
        (): "no model gives second scores: name a CLIP or SigLIP, rescore.model=",
        (f"rescore.model={checkpoint}",): "is of type mm-grounding-dino; supported are clip, siglip",
        (f"rescore.model={tiny_sam('sam')}",): "which makes masks and no scores",
        (f"rescore.model={bare}",): "no tokenizer.json and no vocab.json",
        (f"rescore.model={tmp_path / 'none'}",): "does not exist on this machine",
        (CLIP, "rescore.templates=['a photo']"): "give one or more texts with {} once in each",
        (CLIP, "rescore.templates=[]"): "give one or more texts with {} once in each",
        (CLIP, "rescore.margin=-1"): "rescore.margin",
        (CLIP, "rescore.revision=main"): "rescore.revision is for Hub IDs only",
        (CLIP, "detect.score_floor=0.5"): "decides nothing about second scores",
        (CLIP, "masks.model=x"): "decides nothing about second scores",
        (
            f"rescore.model={tiny_rescorer('siglip')}",
            "rescore.background=[sky]",
        ): "SigLIP scores each category for itself",
    }
    for overrides, problem in cases.items():
        assert main(["rescore", run.uri, *overrides]) == 2
        said = capsys.readouterr().err.strip()
        assert problem in said
        assert len(said.splitlines()) == 1
    values = {**run.manifest.config, "rescore": {"model": str(tiny_rescorer("clip"))}, "output": str(tmp_path / "new")}
    with pytest.raises(Refused, match="only the boxes of a complete run get second scores"):
        label_here(make_config(values))
    half = write_run(tmp_path / "half", {(0, 0): [row(0)]}, unfinished=[0])
    with pytest.raises(Refused, match="has 1 unfinished shards; finish it first"):
        rescore(_with_whole_config(half), str(tmp_path / "to"), overrides=[CLIP])
    assert main(["rescore", str(tmp_path), CLIP]) == 2
    assert not Path(f"{run.uri}-rescored").exists()
    assert not (tmp_path / "to").exists()


def test_a_category_with_crops_alone_is_refused_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "sky")):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(number))
    categories = [
        {"id": 3, "name": "cat", "phrases": [{"image": str(tmp_path / "cat.png")}]},
        {"id": 8, "name": "dog"},
        {"id": 9, "name": "sky", "phrases": [{"image": str(tmp_path / "sky.png")}], "negative": True},
    ]
    run = _with_whole_config(write_run(tmp_path / "run", {(0, 0): [row(0)]}, categories=categories))
    with pytest.raises(Refused, match=r'category 3 "cat": it has crops and no phrase; a second score needs a phrase'):
        rescore(run, str(tmp_path / "to"), overrides=[CLIP])


def test_a_run_without_boxes_has_nothing_to_do(tmp_path: Path) -> None:
    run = _with_whole_config(write_run(tmp_path / "run", {(0, 0): [row(0)]}))
    assert rescore(run, str(tmp_path / "to"), overrides=[CLIP]) is None
    assert not (tmp_path / "to").exists()


def values_of(**more: Any) -> dict[str, Any]:
    return {"input": "in", "output": "out", "vocabulary": ["cat"], "model": {"name": "tiny"}, **more}


def test_the_section_has_defaults_for_all_but_the_model() -> None:
    rescoring = make_config(values_of(rescore={"model": "m"})).rescore
    assert rescoring is not None
    assert (rescoring.margin, rescoring.templates, rescoring.background) == (0.1, None, None)
    with pytest.raises(Refused, match=r"rescore\.model is missing"):
        make_config(values_of(rescore={"margin": 0.5}))

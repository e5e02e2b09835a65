"""Revised runs, with a real model and without Ray: chains, resume, extend, export, forget, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from labeler.cli import main
from labeler.config import Config, make_config
from labeler.errors import Refused
from labeler.labeling.revision import RevisionJob, resolve_revision, revised_config
from labeler.labels.detections import Detections
from labeler.labels.records import Row, table_to_rows
from labeler.labels.revised import CUT
from labeler.pipeline.redo import Todo
from labeler.pipeline.revise import revise
from labeler.runs import Run, open_run, read_snapshot, require_run
from labeler.runs.erasure.excluded import read_excluded
from labeler.runs.report import build_report
from labeler.shards import Unit
from tests import closed_sets
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.label_runs import write_run
from tests.labeled_here import extend_here, label_here, retry_here, revise_here


def config_of(
    folder: Path, output: str, checkpoint: Path, *, names: Any = NAMES, cap: int = 900, exclude: Sequence[str] = ()
) -> Config:
    values = {
        "input": {"uri": str(folder / "in"), "exclude": list(exclude)},
        "output": str(folder / output),
        "vocabulary": names,
        "model": {"name": str(checkpoint), "device": "cpu"},
        "unit": {"max_images": 2},
        "prompts": {"max_categories": 2},
        "detect": {"score_floor": 0.0, "max_detections": cap},
    }
    return make_config(values)


def names_file(folder: Path, name: str, names: list[str]) -> str:
    path = folder / f"{name}.txt"
    path.write_text("\n".join(names))
    return str(path)


def revision_of(folder: Path, parent: Run, output: str, names: list[str]) -> RevisionJob:
    target = str(folder / output)
    return resolve_revision(parent, revised_config(parent, names_file(folder, output, names), target, ()))


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [row for table in read_snapshot(run).tables() for row in table.to_pylist()]


def command(folder: Path, run: str, names: list[str], *more: str) -> list[str]:
    target = ["--vocabulary", names_file(folder, "-".join(names), names), "--output", str(folder / "revised")]
    return ["revise", str(folder / run), *target, *more]


@pytest.mark.slow
def test_a_chain_of_three_revisions_equals_fresh_runs_and_is_resumed_extended_exported_and_forgotten_from(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=3)
    (tmp_path / "in/00001.tar").write_bytes(tar_bytes({"a.png": image_bytes(7), "b.png": b"no image"}))
    first = [*NAMES[1:], "red cat"]
    chain = {"one": first, "two": [*first[1:], "red dog"], "three": first[2:]}  # the last costs no pass
    root = parent = label_here(config_of(tmp_path, "out", checkpoint))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def go_on(parent: Run, output: str) -> Run:
        revision = revision_of(tmp_path, parent, output, chain[output])
        if output == "three":
            assert revision.job.only == ()
            return revise(parent, revision).run
        assert revision.job.only == (3,) if output == "one" else (4,)
        revise_here(parent, revision, units=1)  # killed
        assert main(["status", str(tmp_path / output)]) == 1
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / output).rglob("*.parquet")}
        run = revise_here(parent, revision_of(tmp_path, parent, output, chain[output]))
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        return run

    runs = {}
    for output in chain:
        runs[output] = parent = go_on(parent, output)
        assert main(["status", str(tmp_path / output), "--verify"]) == 0
        names = names_file(tmp_path, output, chain[output])
        config = config_of(tmp_path, f"fresh-{output}", checkpoint, names=names)
        assert rows_of(parent) == rows_of(label_here(config, plan=parent.prompts()))
    assert {path: path.read_bytes() for path in before} == before, "the run itself stays as it is"
    assert [row["status"] for row in rows_of(parent)] == ["labeled"] * 4 + ["decode_error"]

    # The input grew: no row of the earlier vocabulary counts as one of the new, and the same commands resume.
    write_tars(tmp_path / "in", shards=1, images=2, first=2)
    extend_here(root, config_of(tmp_path, "out", checkpoint))
    parent = root
    for output in chain:
        assert main(["status", str(tmp_path / output)]) == 1
        assert len(rows_of(runs[output])) == 5
        with pytest.raises(Refused, match="unfinished shards"):
            revise(runs[output], revision_of(tmp_path, runs[output], "four", ["dog", "cat", "bus"]))
        revision = revision_of(tmp_path, parent, output, chain[output])
        parent = revise(parent, revision).run if output == "three" else revise_here(parent, revision)
        assert len(rows_of(parent)) == 7
    config = config_of(tmp_path, "fresh-of-all", checkpoint, names=names_file(tmp_path, "three", chain["three"]))
    fresh = rows_of(label_here(config, plan=parent.prompts()))
    key = itemgetter("shard_id", "index")  # the extended run has another plan, whose shards have other ids
    assert [row["detections"] for row in sorted(rows_of(parent), key=key)] == [
        row["detections"] for row in sorted(fresh, key=key)
    ]

    assert main(["export", str(tmp_path / "three"), "--to", "coco"]) == 0
    exported = json.loads((tmp_path / "three/exports/coco.json").read_text())
    assert [category["name"] for category in exported["categories"]] == chain["three"]
    keys = tmp_path / "keys.txt"
    keys.write_text("00000.tar/000_0001.png\n")
    assert main(["forget", str(tmp_path / "two"), "--keys", str(keys)]) == 0
    assert str(tmp_path / "three/exports/coco.json") in capsys.readouterr().out
    for run in (root, *runs.values()):
        assert [row["index"] for row in rows_of(run) if row["status"] == "removed"] == [1]


def test_a_revised_run_is_retried_with_all_chunks_of_its_plan(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    members = {f"{n}.png": image_bytes(n, width=400 if n == 1 else 40) for n in range(3)}
    (tmp_path / "in/00000.tar").write_bytes(tar_bytes(members))
    config = config_of(tmp_path, "out", checkpoint)
    small = config.detect.model_copy(update={"max_pixels": 9000})
    parent = label_here(config.model_copy(update={"detect": small}))
    revision = revision_of(tmp_path, parent, "revised", [*NAMES[1:], "red cat"])
    revised = revise_here(parent, revision)
    before = rows_of(revised)
    assert [row["status"] for row in before] == ["labeled", "too_large", "labeled"]
    again = retry_here(revised, ["too_large"], str(tmp_path / "again"), "detect.max_pixels=100000")
    found = rows_of(again)
    assert (found[0], found[2]) == (before[0], before[2])
    assert {d["chunk"] for d in found[1]["detections"]} == set(range(revised.prompts().passes))
    fresh = config_of(tmp_path, "fresh", checkpoint, names=[*NAMES[1:], "red cat"])
    assert found == rows_of(label_here(fresh, plan=revised.prompts()))


def test_the_dry_run_says_what_both_ways_cost_and_writes_nothing(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    run = label_here(config_of(tmp_path, "out", checkpoint, cap=20))
    names = ["red cat", *NAMES[1:]]
    assert main(command(tmp_path, "out", names, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "6 categories before, 6 now: 5 stay, 0 with other phrases, 1 new, 1 gone" in printed
    assert "1 per image with revise (3 prompt chunks stay), 3 per image with a run of its own" in printed
    assert "images      2: 2 passes, 6 with a run of its own" in printed
    assert "at the cap  2 images have max_detections boxes" in printed
    assert not (tmp_path / "revised").exists()

    # Without the name that most boxes have, and nothing in its place, boxes beyond the limit are missing: reported.
    found = [d["category_id"] for row in rows_of(run) for d in row["detections"]]
    without = [name for number, name in enumerate(NAMES, 1) if number != max(set(found), key=found.count)]
    assert main(command(tmp_path, "out", without)) == 0
    printed = capsys.readouterr().out
    revised = open_run(str(tmp_path / "revised"))
    assert revised is not None
    rows = [row for table in read_snapshot(revised).tables() for row in table_to_rows(table)]
    cut = [row.image_key for row in rows if row.error == CUT]
    assert cut
    assert f"incomplete  {len(cut)} images: {CUT}" in printed
    for line in printed.splitlines():
        if line.startswith("incomplete"):
            where = line.partition('--where "')[2].rstrip('"')
            assert main(["export", str(tmp_path / "revised"), "--to", "coco", "--where", where]) == 0
    exported = json.loads((tmp_path / "revised/exports/coco.json").read_text())
    assert [image["file_name"].split("/")[-1] for image in exported["images"]] == cut


def test_what_cannot_be_revised_is_refused_in_one_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    label_here(config_of(tmp_path, "out", checkpoint))
    closed = closed_sets.make_checkpoint(tmp_path / "closed", "rt_detr")
    values = {"input": str(tmp_path / "in"), "output": str(tmp_path / "fixed"), "vocabulary": "from_model"}
    label_here(make_config({**values, "model": {"name": str(closed), "device": "cpu"}}))
    for name, field in (("masks", {"masks": "sam"}), ("reviewed", {"schema_version": 3, "columns": ["review"]})):
        shutil.copytree(tmp_path / "out", tmp_path / name)
        stored = json.loads((tmp_path / name / "run.json").read_text())
        stored["fingerprint_fields"] |= field
        (tmp_path / name / "run.json").write_text(json.dumps(stored))
    other = [*NAMES[1:], "red cat"]
    capsys.readouterr()  # what transformers prints of the checkpoint that it wrote
    for words, why in (
        (command(tmp_path, "out", NAMES), "the vocabulary is that of run"),
        (command(tmp_path, "out", other, f"model.name={closed}"), "was labeled with another model than"),
        (command(tmp_path, "out", other, "detect.nms_iou=0.9"), "would change more than the vocabulary"),
        (command(tmp_path, "out", ["red bus"]), "keeps no category of the run"),
        (command(tmp_path, "masks", other), "has masks"),
        (command(tmp_path, "reviewed", other), "is corrected, and a revision would lose"),
        (command(tmp_path, "fixed", other), "was labeled by the family closed-set"),
        (command(tmp_path, "in", other), "run.json"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert why in said
        assert len(said.splitlines()) == 1
    (tmp_path / "out/shards/000000-1-2").unlink()
    for more in ((), ("--dry-run",)):
        assert main(command(tmp_path, "out", other, *more)) == 2
        assert "unfinished" in capsys.readouterr().err
    assert not (tmp_path / "revised").exists()


def test_an_earlier_labeler_refuses_a_revised_run_and_reads_all_others(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    run = label_here(config_of(tmp_path, "out", checkpoint))
    revise(run, revision_of(tmp_path, run, "less", NAMES[1:]))
    stored = {name: json.loads((tmp_path / name / "run.json").read_text()) for name in ("out", "less")}
    assert "whole" not in stored["out"], "a key that an earlier labeler does not know"
    assert stored["less"]["whole"] is True
    assert stored["less"]["parent"]["run_id"] == run.manifest.run_id


def test_masks_leave_the_mark_of_images_that_may_lack_boxes() -> None:
    found = Detections.of([[1, 2, 3, 4]], [0.5], [1])
    earlier = Row("a.png", "000000", 4, "u", "labeled", digest="d", error=CUT, detections=found)
    todo = Todo(Unit("000000", 0, ()), None, {4: earlier})
    fresh = replace(earlier, error=None)
    assert todo.settle([fresh]) == [earlier]
    assert todo.settle([replace(fresh, error="2 masks are lost")]) == [
        replace(earlier, error=f"{CUT}; 2 masks are lost")
    ]
    dead = replace(fresh, status="quarantined", error="crashed its process")
    marked = replace(earlier, error=f"{CUT}; no masks: crashed its process")
    assert todo.settle([dead]) == [marked]
    assert Todo(todo.unit, None, {4: marked}).settle([fresh]) == [earlier], "masks made another time"


def test_a_revision_without_a_pass_has_only_the_places_of_excluded_images_and_no_work_of_the_run_s(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_tars(tmp_path / "in", shards=1, images=4)
    listed = tmp_path / "listed.txt"
    listed.write_text("00000.tar/nothing.png")
    run = label_here(config_of(tmp_path, "out", checkpoint, exclude=[str(listed)]))
    before = rows_of(run)
    unit = tmp_path / "out/labels/000000/000000.parquet"
    made = {
        **pq.read_schema(unit).metadata,
        b"engine": b"fast",
        b"prompts_fingerprint": b"old",
        b"work": b'{"passes":6}',
    }
    pq.write_table(pq.read_table(unit).replace_schema_metadata({**made, b"committed_at": b"1.5"}), unit)
    listed.write_text(f"00000.tar/{before[1]['image_key']}\n{before[2]['digest']}")
    revised = revise(run, revision_of(tmp_path, run, "less", NAMES[1:])).run
    rows = rows_of(revised)
    assert [row["status"] for row in rows] == ["labeled", "removed", "removed", "labeled"]
    for row, earlier in zip(rows[1:3], before[1:3], strict=True):
        place = {name: earlier[name] for name in ("image_key", "shard_id", "index", "uri")}
        assert {name: value for name, value in row.items() if value} == {**place, "status": "removed"}
    assert read_excluded(run).has(before[2]["digest"]), "what is labeled later leaves them out, too"
    metadata = pq.read_schema(tmp_path / "less/labels/000000/000000.parquet").metadata
    assert (metadata[b"engine"], metadata[b"work"]) == (b"fast", b"{}")
    assert metadata[b"prompts_fingerprint"].decode() == revised.prompts().fingerprint
    assert float(metadata[b"committed_at"]) > 1.5
    assert json.loads((tmp_path / "less/report.json").read_text())["passes"] == 0


def test_images_that_may_lack_boxes_are_counted_however_many_other_reasons_there_are(tmp_path: Path) -> None:
    reasons = [CUT, *(f"reason {number:02d}" for number in range(60) for _ in range(2))]
    rows = [
        Row(f"{index}.png", "000000", index, "u", "labeled" if error == CUT else "read_error", error=error)
        for index, error in enumerate(reasons)
    ]
    errors = build_report(read_snapshot(write_run(tmp_path, {(0, 0): rows}))).errors
    assert errors == {**{f"reason {number:02d}": 2 for number in range(50)}, CUT: 1}


def test_rows_of_other_package_versions_are_warned_of(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    label_here(config_of(tmp_path, "out", checkpoint))
    stored = json.loads((tmp_path / "out/run.json").read_text())
    stored["versions"]["torch"] = "1.0"
    (tmp_path / "out/run.json").write_text(json.dumps(stored))
    (tmp_path / "out/shards/000000-1-2").unlink()  # so that it ends before a cluster is joined
    run, said = require_run(str(tmp_path / "out")), io.StringIO()
    with pytest.raises(Refused, match="unfinished"):
        revise(run, revision_of(tmp_path, run, "more", [*NAMES, "red cat"]), console=Console(file=said))
    assert f"warning: run {tmp_path / 'out'} was started with torch 1.0 (now " in said.getvalue()


def test_a_run_s_negative_phrases_and_synonyms_go_with_the_new_vocabulary(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=1, images=2)
    *found, negative = NAMES
    spec = {"name": names_file(tmp_path, "first", found), "negative": [negative], "synonyms": True}
    run = label_here(config_of(tmp_path, "out", checkpoint, names=spec))
    revision = revision_of(tmp_path, run, "less", found[1:])
    again = revise(run, revision).run
    assert [category.name for category in again.vocabulary().categories] == [*found[1:], negative]
    assert again.vocabulary().negative_ids == {len(found)}
    assert revision.job.config.vocabulary == {**spec, "name": str(tmp_path / "less.txt")}
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"categories": found[2:], "negative": [negative]}))
    config = revised_config(again, str(own), str(tmp_path / "least"), ())
    assert config.vocabulary == {"name": str(own), "synonyms": True}
    assert resolve_revision(again, config).job.only == ()


def test_a_model_that_is_another_by_now_is_named_before_anything_else(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(checkpoint, tmp_path / "model")
    write_tars(tmp_path / "in", shards=1, images=2)
    label_here(config_of(tmp_path, "out", model))
    other = closed_sets.make_checkpoint(tmp_path / "other", "rt_detr")
    capsys.readouterr()

    def refused(differing: str) -> None:
        assert main(command(tmp_path, "out", [*NAMES[1:], "red cat"])) == 2
        said = capsys.readouterr().err
        assert f"was labeled with another model than {model} holds now ({differing})" in said
        assert len(said.splitlines()) == 1

    with (model / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, io.SEEK_END)
        weights.write(b"\0\0\0\1")
    refused("model")
    words = model / "tokenizer.json"
    data = json.loads(words.read_text())
    ids = data["model"]["vocab"]
    ids["red"], ids["cat"] = ids["cat"], ids["red"]
    words.write_text(json.dumps(data))
    refused("tokenizer")
    shutil.rmtree(model)
    shutil.copytree(other, model)
    refused("family, family_version")

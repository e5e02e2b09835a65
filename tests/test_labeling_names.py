"""Names per image, with a real model and without Ray: each image is asked for what another run found in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.cli import main
from labeler.config import Config, make_config
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.labeling.names.found import COLUMNS, FoundNames
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import plan_input, resolve_job
from labeler.labels.detections import Detections
from labeler.labels.records import ALL_NAMES
from labeler.pipeline.session import new_run
from labeler.runs import Run, read_snapshot
from labeler.runs.create import create_run
from labeler.runs.fitted_on import fitted_on, require_fitted_on
from labeler.runs.report import build_report
from labeler.shards import Unit, find_shards, read_units
from tests import closed_sets
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.label_runs import row as row_of
from tests.label_runs import write_run
from tests.labeled_here import label_here, work


def config_of(folder: Path, output: str, checkpoint: Path, **more: Any) -> Config:
    values = {
        "input": str(folder / "in"),
        "output": str(folder / output),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint), "device": "cpu"},
        "unit": {"max_images": 2},
        "prompts": {"max_tokens": 12},
        "detect": {"score_floor": 0.0, "max_detections": 0},
    }
    return make_config({name: {**values[name], **more.pop(name, {})} if isinstance(values[name], dict) else
                        more.pop(name, values[name]) for name in values} | more)  # fmt: skip


def rows_of(run: Run) -> list[dict[str, Any]]:
    return [row for table in read_snapshot(run).tables() for row in table.to_pylist()]


def middle_score(rows: list[dict[str, Any]]) -> float:
    """A score that half of the (image, category) pairs reach."""
    best: dict[tuple[int, int], float] = {}
    for place, row in enumerate(rows):
        for found in row["detections"]:
            pair = (place, found["category_id"])
            best[pair] = max(best.get(pair, 0.0), found["score"])
    return float(np.median(list(best.values())))


def found_in(row: Mapping[str, Any], score: float) -> list[int]:
    return sorted({found["category_id"] for found in row["detections"] if found["score"] >= np.float32(score)})


def items_of(folder: Path) -> list[Any]:
    units = [unit for shard in find_shards([str(folder / "in")]) for unit in read_units(shard)]
    return [item for unit in units if isinstance(unit, Unit) for item in unit.items]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> tuple[Path, Run, float]:
    """(folder, a run of a small image size, a score)."""
    folder = tmp_path_factory.mktemp("cascade")
    write_tars(folder / "in", shards=1, images=3)
    (folder / "in/00001.tar").write_bytes(
        tar_bytes({"a.png": image_bytes(7), "b.png": b"no image", "c.png": image_bytes(9)})
    )
    cheap = label_here(
        config_of(folder, "cheap", checkpoint, detect={"image_size": {"shortest_edge": 64, "longest_edge": 96}})
    )
    return folder, cheap, middle_score(rows_of(cheap))


def test_each_row_equals_that_of_a_plain_run_which_asks_for_exactly_its_names(
    cascade: tuple[Path, Run, float], checkpoint: Path
) -> None:
    folder, cheap, score = cascade
    found = [found_in(row, score) for row in rows_of(cheap)]
    assert len(set(map(tuple, found))) > 2, "the sets differ"
    prompts = {"from": cheap.uri, "from_score": score}
    dear = label_here(config_of(folder, "dear", checkpoint, prompts=prompts))
    rows = rows_of(dear)
    assert [row["asked"] for row in rows if row["status"] == "labeled"] == [
        names for names, row in zip(found, rows, strict=True) if row["status"] == "labeled"
    ]
    assert [row["status"] for row in rows].count("decode_error") == 1
    compared = 0
    for item, row in zip(items_of(folder), rows, strict=True):
        if row["status"] != "labeled":
            continue
        names = [{"id": id_, "name": NAMES[id_ - 1]} for id_ in row["asked"]]
        job = resolve_job(config_of(folder, "reference", checkpoint, vocabulary=names))
        ((reference,), _) = labeler_here(job).label(row["shard_id"], [item])
        mine = row["detections"]
        assert [found["category_id"] for found in mine] == reference.detections.category_ids.tolist()
        assert [found["score"] for found in mine] == reference.detections.scores.tolist()
        assert [found["x_max"] for found in mine] == reference.detections.boxes[:, 2].tolist()
        assert [found["chunk"] for found in mine] == reference.detections.chunks.tolist()
        compared += 1
    assert compared == 5
    report = build_report(read_snapshot(dear))
    assert report.passes < build_report(read_snapshot(cheap)).passes
    assert dear.manifest.schema_version == 3
    assert cheap.manifest.schema_version == 2
    assert dear.manifest.fingerprint_fields["prompts.from"] == cheap.manifest.run_id


def test_an_image_with_no_name_is_not_run_and_one_that_is_not_known_is_asked_for_all(
    cascade: tuple[Path, Run, float], checkpoint: Path, tmp_path: Path
) -> None:
    folder, cheap, _ = cascade
    shutil.copytree(folder / "in", tmp_path / "in")
    (tmp_path / "in/00002.tar").write_bytes(tar_bytes({"new.png": image_bytes(33)}))
    prompts = {"from": cheap.uri, "from_score": 1.0}
    dear = label_here(config_of(tmp_path, "dear", checkpoint, prompts=prompts))
    rows = rows_of(dear)
    assert [(row["status"], row["asked"], row["error"]) for row in rows[:4]] == [("empty", [], None)] * 4
    assert rows[0]["width"], "it was decoded all the same"
    assert rows[4]["status"] == "decode_error"
    assert (rows[-1]["status"], rows[-1]["asked"], rows[-1]["error"]) == ("labeled", None, ALL_NAMES)
    report = build_report(read_snapshot(dear))
    assert report.errors[ALL_NAMES] == 1
    assert report.passes == len(dear.prompts().to_json()["chunks"])
    plain = label_here(config_of(tmp_path, "plain", checkpoint))
    assert rows[-1]["detections"] == rows_of(plain)[-1]["detections"]


def test_a_run_is_resumed_with_the_same_names(cascade: tuple[Path, Run, float], checkpoint: Path) -> None:
    folder, cheap, score = cascade
    config = config_of(folder, "whole", checkpoint, prompts={"from": cheap.uri, "from_score": score})
    whole = label_here(config)
    other = config_of(folder, "killed", checkpoint, prompts={"from": cheap.uri, "from_score": score})
    job = resolve_job(other)
    run = create_run(other.output.uri, new_run(job, plan=plan_input(other)))
    work(run, job, units=1)
    assert len(rows_of(run)) == 2
    work(run, resolve_job(other))
    assert rows_of(run) == rows_of(whole)


def said_of_refusal(capsys: pytest.CaptureFixture[str], folder: Path, checkpoint: Path, *overrides: str) -> str:
    """The one line of a refused `label --dry-run` and `label`; nothing is written."""
    path = folder / "config.yaml"
    config = {"input": str(folder / "in"), "output": str(folder / "refused"), "vocabulary": NAMES}
    path.write_text(json.dumps(config | {"model": {"name": str(checkpoint), "device": "cpu"}}))
    for more in ((), ("--dry-run", "--time-images", "0")):
        assert main(["label", str(path), *overrides, *more]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1, said
    assert not (folder / "refused").exists()
    return said


def test_what_cannot_say_names_is_refused_in_one_line_before_anything_is_written(
    cascade: tuple[Path, Run, float], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, cheap, _ = cascade
    shutil.copytree(folder / "in", tmp_path / "in")
    other = tmp_path / "other"
    shutil.copytree(cheap.uri, other)
    stored = json.loads((other / "vocabulary.json").read_text())
    stored["categories"][0]["name"] = "lynx"
    (other / "vocabulary.json").write_text(json.dumps(stored))
    manifest = json.loads((other / "run.json").read_text())
    manifest["digests"]["vocabulary.json"] = digest_of((other / "vocabulary.json").read_bytes())
    (other / "run.json").write_text(json.dumps(manifest))
    incomplete = tmp_path / "incomplete"
    shutil.copytree(cheap.uri, incomplete)
    next((incomplete / "shards").iterdir()).unlink()
    closed = closed_sets.make_checkpoint(tmp_path / "closed", "rt_detr")
    capsys.readouterr()
    found = f"prompts.from={cheap.uri}"
    for overrides, why in (
        ((f"prompts.from={tmp_path / 'in'}",), "is not a labeler run"),
        ((f"prompts.from={incomplete}",), "is incomplete (1 of 2 shards unfinished)"),
        (
            (f"prompts.from={other}",),
            'whatever their ids): "cat" is not in that run',
        ),
        ((f"prompts.from={tmp_path / 'refused'}",), "is the output itself"),
        ((found, f"model.name={closed}", "vocabulary=from_model"), "the family closed-set takes all names together"),
        ((found, "prompts.max_categories=2"), "prompts.max_categories: with prompts.from"),
        (("prompts.from_score=0.2",), "from_score is about the boxes of another run"),
        ((f"prompts.from={{run: {cheap.uri}, field: json.tags}}",), "name one source"),
        ((found, "input.keep=[asked]"), "'asked' is the name of a labels column"),
    ):
        assert why in said_of_refusal(capsys, tmp_path, checkpoint, *overrides)
    shutil.rmtree(tmp_path / "in")
    write_tars(tmp_path / "in", shards=1, images=2, first=5)
    said = said_of_refusal(capsys, tmp_path, checkpoint, found)
    assert f"run {cheap.uri} is over other images: none of 2 looked at is in it" in said


def test_a_copy_of_the_images_is_known_by_their_bytes_and_others_by_their_place(
    cascade: tuple[Path, Run, float],
) -> None:
    folder, cheap, score = cascade
    names = FoundNames.of(read_snapshot(cheap).tables(COLUMNS), {n: 10 * n for n in range(1, 7)}, score)
    first, *_ = items_of(folder)
    expected = tuple(10 * n for n in found_in(rows_of(cheap)[0], score))
    assert names.asked(first) == expected
    assert names.asked(replace(first, uri="s3://other/copy.tar", index=9)) == expected
    assert names.asked(replace(first, data=b"written again")) == expected
    assert names.asked(replace(first, uri="s3://other/copy.tar", data=b"another")) is None
    assert (len(names), names.failed) == (5, 1)


def test_thresholds_fitted_on_other_names_are_refused(tmp_path: Path) -> None:
    rows = {(0, 0): [row_of(0)]}
    plain = write_run(tmp_path / "plain", rows)
    fields = {"prompts.from": "abc", "prompts.from_score": 0.1}
    named = write_run(tmp_path / "named", rows, fields=fields, columns=["asked"])
    other = write_run(tmp_path / "other", rows, fields=fields | {"prompts.from_score": 0.2}, columns=["asked"])
    for run in (plain, named, other):
        for fitted in (plain, named, other):
            if run is fitted:
                require_fitted_on(fitted_on(fitted), run, source="t.yaml")
            else:
                with pytest.raises(Refused, match=r"fitted on another prompts\.from"):
                    require_fitted_on(fitted_on(fitted), run, source="t.yaml")
    require_fitted_on({}, named, source="by hand")


def test_the_dry_run_says_the_passes_of_both_ways_and_the_recall_ceiling(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tars(tmp_path / "in", shards=1, images=3)
    (shard,) = find_shards([str(tmp_path / "in")])
    here = [{"image_key": f"000_{n:04d}.png", "uri": shard.uri} for n in range(3)]
    found = Detections.of([[0, 0, 9, 9], [1, 1, 8, 8]], [0.9, 0.5], [1, 6])
    rows = [row_of(0, found, **here[0]), row_of(1, **here[1])]
    rows.append(row_of(2, **here[2], status="decode_error", error="bad"))
    names = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    cheap = write_run(tmp_path / "cheap", {(0, 0): rows}, shards=[shard], categories=names)
    pairs = [(1, 50), (1, 51), (3, 51)]  # a cat that is found, a dog that is not, and one in the image without names
    truth = {
        "images": [{"id": n, "file_name": f"00000.tar/{each['image_key']}"} for n, each in enumerate(here, 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": [1, 1, 5, 5]}
            for n, (image, category) in enumerate([*pairs, pairs[0]], 1)
        ],
        "categories": [{"id": 50, "name": "cat"}, {"id": 51, "name": "dog"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    config = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "vocabulary": NAMES}
    config |= {"model": {"name": str(checkpoint), "device": "cpu"}}
    config |= {"prompts": {"max_tokens": 12, "from": cheap.uri, "from_score": 0.4}}
    (tmp_path / "dear.yaml").write_text(json.dumps(config))
    command = ["label", str(tmp_path / "dear.yaml"), "--annotations", str(tmp_path / "truth.json")]
    assert main([*command, "--dry-run", "--time-images", "0"]) == 0
    printed = capsys.readouterr().out
    assert f"1.0 of 6 an image on the mean, none in 1 of 2 images of run {cheap.manifest.run_id}" in printed
    assert "1 images that it could not label are asked for all" in printed
    assert "0.50 passes per image on the mean with its names, 2 with all" in printed
    assert "ceiling  0.667: of 3 (image, category) pairs with objects" in printed
    assert main(command) == 2
    assert "--annotations belongs to --dry-run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

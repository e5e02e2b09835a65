"""Export, evaluation and calibration from a program: the same as the commands, and every mistake in a line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import labeler
from labeler.api.results import ExportOptions
from labeler.cli import main
from labeler.commands import export as export_command


def test_an_export_is_that_of_the_command(run_uri: str, tmp_path: Path) -> None:
    summary = labeler.export(run_uri, "coco", output=tmp_path / "api.json", threshold=0.5, categories=["cat"])
    assert summary.uri == str(tmp_path / "api.json")
    options = [f"--output={tmp_path}/cli.json", "--threshold=0.5", "--categories=cat"]
    assert main(["export", run_uri, "--to=coco", *options]) == 0
    assert json.loads((tmp_path / "api.json").read_text()) == json.loads((tmp_path / "cli.json").read_text())
    assert summary.totals.annotations == len(json.loads((tmp_path / "api.json").read_text())["annotations"]) > 0


def test_splits_and_flags_are_given_as_python_has_them(run_uri: str, tmp_path: Path) -> None:
    summary = labeler.export(
        labeler.open_run(run_uri),
        "parquet",
        output=tmp_path / "out",
        split={"train": 0.5, "val": 0.5},
        near_copies="off",
        suppress=0.9,
        partial=False,
    )
    assert set(summary.totals.images) <= {"train", "val"}


def test_the_options_are_those_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    export_command.add(parser.add_subparsers())
    arguments = vars(parser.parse_args(["export", "RUN", "--to=coco"]))
    assert set(ExportOptions.__annotations__) == set(arguments) - {"run", "run_uri", "to", "output"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "cocoa"}, "invalid choice: 'cocoa'; did you mean coco"),
        ({"to": "coco", "treshold": 0.5}, "--treshold=0.5; did you mean --threshold"),
        ({"to": "coco", "threshold": "high"}, "threshold"),
        ({"to": "coco", "threshold": 1.5}, "from 0 to 1"),
        ({"to": "coco", "categories": ["cow"]}, "unknown"),
        ({"to": "voc", "category_ids": "zero-based"}, "--category-ids is for"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_printed(
    run_uri: str, options: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(labeler.Refused, match=message):
        labeler.export(run_uri, **options)
    assert capfd.readouterr() == ("", "")


def test_an_evaluation_is_that_of_the_command(
    run_uri: str, truth: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    evaluation = labeler.evaluate(run_uri, tmp_path / "truth.json")
    assert main(["evaluate", run_uri, f"--annotations={tmp_path}/truth.json"]) == 0
    assert capsys.readouterr().out.startswith("\n".join(evaluation.lines()))
    assert labeler.evaluate(labeler.open_run(run_uri), truth).lines()[3:] == evaluation.lines()[3:]


def test_thresholds_are_those_of_the_command(run_uri: str, truth: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = labeler.calibrate(
        run_uri, "precision=0.5", annotations=tmp_path / "truth.json", min_judged=1, output=tmp_path / "api.yaml"
    )
    options = [f"--annotations={tmp_path}/truth.json", "--min-judged=1", f"--output={tmp_path}/cli.yaml"]
    assert main(["calibrate", run_uri, "--target=precision=0.5", *options]) == 0
    assert (tmp_path / "api.yaml").read_text() == (tmp_path / "cli.yaml").read_text()
    assert len(found.choices) == 2
    labeler.export(run_uri, "coco", output=tmp_path / "out.json", thresholds=tmp_path / "api.yaml")


def test_calibration_needs_one_kind_of_evidence(run_uri: str) -> None:
    with pytest.raises(labeler.Refused, match="annotations or marks"):
        labeler.calibrate(run_uri, "precision=0.9")
    with pytest.raises(labeler.Refused, match="annotations or marks"):
        labeler.calibrate(run_uri, "precision=0.9", annotations="a.json", marks="b.json")

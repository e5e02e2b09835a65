"""Runs that earlier versions wrote: they are read as before; what would add rows of another reader is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from labeler.cli import main
from labeler.runs import open_run, read_snapshot
from tests.frozen import archive
from tests.frozen.freeze import BUCKET, config_file
from tests.s3_server import S3Server

VERSION_2 = "a15ad13"  # the last that read with reader version 2
VERSION_3 = "02763af"  # before the package was split; reader version 3, as today
RUNS = ("run", "run-retry", "run-masks", "files")


MAY_DO = {
    VERSION_2: "reads it (export, evaluate, report, compare, forget) but adds no rows to it: decoding_version 1",
    VERSION_3: "reads and continues it",
}


@pytest.fixture(params=[VERSION_2])
def frozen(request: pytest.FixtureRequest, bucket: str, s3_server: S3Server) -> str:
    archive.restore(s3_server.endpoint, BUCKET, archive.FOLDER / f"{request.param}.tar.xz")
    return f"s3://{BUCKET}"


of_each_version = pytest.mark.parametrize("frozen", MAY_DO, indirect=True)


def keys_of(server: S3Server) -> set[tuple[str, str]]:
    pages = boto3.client("s3", endpoint_url=server.endpoint).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {(entry["Key"], entry["ETag"]) for page in pages for entry in page["Contents"]}


@of_each_version
@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_an_earlier_version_is_verified_and_exported(
    frozen: str, request: pytest.FixtureRequest, tmp_path: Path, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", f"{frozen}/{run}", "--verify"]) == 0
    said = capsys.readouterr().out
    assert "complete" in said
    assert MAY_DO[request.node.callspec.params["frozen"]] in said
    target = str(tmp_path / "coco.json")
    assert main(["export", f"{frozen}/{run}", "--to", "coco", "--threshold", "0.1", "--output", target]) == 0
    exported = json.loads(Path(target).read_text())
    names = [image["file_name"] for image in exported["images"]]
    assert exported["annotations"]
    assert ("00001.tar/1_2.png" in names, "00001.tar/1_1.png" in names) == (False, run != "files")
    assert (
        main(["export", f"{frozen}/{run}", "--to", "yolo", "--threshold", "0.1", "--output", str(tmp_path / "y")]) == 0
    )
    assert len(list((tmp_path / "y").rglob("*.png"))) == len(names)


@of_each_version
def test_a_run_of_an_earlier_version_is_evaluated_reviewed_compared_and_forgotten_from(
    frozen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = f"{frozen}/run", str(tmp_path / "truth.json")
    body = boto3.client("s3").get_object(Bucket=BUCKET, Key="truth.json")["Body"].read()
    Path(truth).write_bytes(body)
    assert main(["evaluate", run, "--annotations", truth, "--partial"]) == 0
    assert main(["report", run, "--output", str(tmp_path / "report.html")]) == 0
    assert main(["compare", run, f"{frozen}/part", "--partial"]) == 0
    capsys.readouterr()
    assert main(["compare", run, run]) == 0
    assert "16 images compared, 16 of them identical" in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("00000.tar/0_1.png\n")
    assert main(["forget", run, "--keys", str(tmp_path / "names.txt")]) == 0
    capsys.readouterr()
    for each in ("run", "run-masks"):
        assert main(["status", f"{frozen}/{each}", "--verify"]) == 0
        assert "removed 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["label", "part"], id="label"),
        pytest.param(["label", "run"], id="label a complete run"),
        pytest.param(["label", "run", "--extend"], id="extend"),
        pytest.param(["retry", "run", "--status", "decode_error"], id="retry"),
        pytest.param(["mask", "run", "masks.model=s3://frozen/sam"], id="mask"),
    ],
)
def test_what_would_read_the_input_of_a_run_of_reader_version_2_again_is_refused(
    frozen: str, tmp_path: Path, s3_server: S3Server, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = keys_of(s3_server)
    verb, run, *rest = command
    named = config_file(tmp_path, run, f"{frozen}/in") if verb == "label" else f"{frozen}/{run}"
    assert main([verb, named, *rest]) == 2
    said = capsys.readouterr().err
    assert f"run {frozen}/{run} was started with reader version 2" in said
    assert len(said.splitlines()) == 1
    assert keys_of(s3_server) == before


@pytest.mark.ray
@pytest.mark.parametrize("frozen", [VERSION_3], indirect=True)
def test_a_run_of_reader_version_3_goes_on_where_it_was_and_gets_masks(
    frozen: str, tmp_path: Path, s3_server: S3Server
) -> None:
    """Its rows are those that the older version wrote of the same tars, to the bit."""
    part = config_file(tmp_path, "part", f"{frozen}/in")
    _labeler(s3_server, "label", part)
    found, expected = (_rows(f"{frozen}/{run}") for run in ("part", "run"))
    assert found.keys() == expected.keys()
    same = {key for key in found if found[key] == expected[key]}
    assert found.keys() - same == {"1_2.png"}, "which was removed from the other run on request"
    _labeler(s3_server, "mask", f"{frozen}/part", "masks.model=s3://frozen/sam", "masks.max_masks=3")
    masked = _rows(f"{frozen}/part-masks")
    assert any(detection["mask"] for row in masked.values() for detection in row[-1])
    older = _rows(f"{frozen}/run-masks")
    assert {key: masked[key] for key in same} == {key: older[key] for key in same}


def _labeler(server: S3Server, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labeler", *words], env={**os.environ, **server.env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _rows(uri: str) -> dict[str, tuple[Any, ...]]:
    """By key, what was found in each image."""
    run = open_run(uri)
    assert run is not None
    rows = (row for table in read_snapshot(run).tables() for row in table.to_pylist())
    return {row["image_key"]: (row["status"], row["digest"], row["phash"], row["detections"]) for row in rows}


NEWER = {
    "schema_version": ("schema_version", 99, r"schema version 99, not 1, 2, 3"),
    "a key": ("shape_of_boxes", "polygon", r"run\.json has shape_of_boxes"),
}


@pytest.mark.parametrize("name", NEWER)
def test_a_run_of_a_newer_labeler_is_refused_in_one_line(
    frozen: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value, why = NEWER[name]
    _change_manifest("run", **{key: value, "versions": {"labeler": "9.0"}})
    for command in (["status"], ["export", "--to", "coco", "--output", str(tmp_path / "out.json")], ["report"]):
        assert main([command[0], f"{frozen}/run", *command[1:]]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert re.search(rf"was started by labeler 9\.0, and this one cannot read it \({why}\)", said)


def test_rows_that_a_newer_labeler_decides_otherwise_are_read_but_not_added_to(
    frozen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads(_client().get_object(Bucket=BUCKET, Key="part/run.json")["Body"].read())["fingerprint_fields"]
    _change_manifest("part", fingerprint_fields={**fields, "reader_version": 99})
    assert main(["status", f"{frozen}/part"]) == 1
    assert "adds no rows to it: decoding_version 1 (now 2), reader_version 99 (now 3)" in capsys.readouterr().out
    assert main(["label", config_file(tmp_path, "part", f"{frozen}/in")]) == 2
    assert "was started with reader version 99" in capsys.readouterr().err


def _client() -> Any:
    return boto3.client("s3")


def _change_manifest(run: str, **changes: Any) -> None:
    manifest = json.loads(_client().get_object(Bucket=BUCKET, Key=f"{run}/run.json")["Body"].read())
    _client().put_object(Bucket=BUCKET, Key=f"{run}/run.json", Body=json.dumps({**manifest, **changes}).encode())

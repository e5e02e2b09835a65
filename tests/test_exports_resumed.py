"""Exports that resume after they stopped, and what they refuse to resume."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from labeler import storage
from labeler.cli import main
from labeler.errors import Refused
from labeler.exports import state
from tests.export_parts import images, run_of
from tests.red_boxes import red_run

ROOT = Path(__file__).parent.parent


DIES = """
import os, signal, sys
from labeler import cli, storage

def put_and_die(uri, data):
    put(uri, data)
    if uri.endswith("parts/00001.json"):
        os.kill(os.getpid(), signal.SIGKILL)

put, storage.put = storage.put, put_and_die
cli.main(sys.argv[1:])
"""


CROWDS = ["--suppress", "off", "--threshold", "0.5", "--uncertain", "0.1..", "--uncertain-as", "crowd"]


@pytest.mark.parametrize(
    ("to", "options"),
    [
        ("webdataset", []),
        ("label-studio", ["--image-prefix", "s3://bucket/a"]),
        ("cvat", []),
        ("coco", CROWDS),  # annotation ids count on behind the crowds of finished parts
    ],
)
def test_an_export_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, to: str, options: list[str]
) -> None:
    run = red_run(tmp_path, shards=6)
    command = ["export", run.uri, "--to", to, "--images-per-shard", "4", "--split", "a=0.5,b=0.5", *options]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run([sys.executable, "-c", DIES, *command, "--output", str(killed)], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((killed / ".labeler/export.json").read_text())["complete"] is False
    done = sorted((killed / ".labeler/parts").iterdir())
    files = [
        path for path in killed.rglob("*") if re.search("-0000[01]", str(path.relative_to(killed))) and path.is_file()
    ]
    times = {path: path.stat().st_mtime_ns for path in files}
    assert len(done) >= 2
    assert times
    assert main([*command, "--output", str(killed)]) == 0
    assert main([*command, "--output", str(whole)]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times, "finished parts are not written again"
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(killed)) for p in killed.rglob("*") if p.is_file())
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_a_folder_with_another_export_or_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, images(20))
    command = ["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert main(command) == 0, "asking again is fine"
    assert main([*command, "--threshold", "0.5"]) == 2
    assert "holds an export of something else (another selection)" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("!")
    assert main([*command[:-1], str(tmp_path / "mine")]) == 2
    assert "is not empty (it holds notes.txt)" in capsys.readouterr().err


def test_an_export_that_an_earlier_version_began_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/parts").mkdir(parents=True)
    (tmp_path / "out/export.json").write_text('{"complete": false, "labeler": "0.1.0", "asked": {"export_version": 2}}')
    (tmp_path / "out/parts/00000.json").write_text("{}")
    run = run_of(tmp_path, images(20))
    assert main(["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "an export of an earlier labeler" in line
    assert "another --output" in line


def test_of_two_exports_that_begin_at_once_one_is_refused_unless_they_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found the folder empty before either writes to it."""
    gate, real = threading.Barrier(2), storage.list_objects

    def together(uri: str, **options: Any) -> Any:
        found = list(real(uri, **options))
        if not uri.endswith("parts"):
            gate.wait(60)
        return iter(found)

    monkeypatch.setattr(storage, "list_objects", together)

    def begin(target: Path, threshold: float) -> str:
        try:
            state.begin(str(target), {"format": "coco", "selection": threshold})
        except Refused as error:
            return str(error)
        return "begun"

    with ThreadPoolExecutor(2) as pool:
        different = sorted(pool.map(begin, [tmp_path / "a"] * 2, [0.1, 0.9]))
        equal = list(pool.map(begin, [tmp_path / "b"] * 2, [0.5, 0.5]))
    assert different[0] == "begun"
    assert "an export of something else (another selection)" in different[1]
    assert equal == ["begun", "begun"]
    kept = json.loads((tmp_path / "a/.labeler/export.json").read_text())["asked"]["selection"]
    assert kept in (0.1, 0.9)


@pytest.mark.parametrize("text", ["{", "[]", '{"asked": 3}', "[" * 100_000])
def test_a_manifest_that_is_none_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "out/.labeler").mkdir(parents=True)
    (tmp_path / "out/.labeler/export.json").write_text(text)
    run = run_of(tmp_path, images(20))
    assert main(["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not an export manifest" in line


def test_an_export_to_storage_without_put_if_absent_continues_and_refuses_as_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, images(20))
    command = ["export", run.uri, "--to", "parquet", "--output", "memory://exports/out"]
    assert main(command) == 0
    assert main(command) == 0
    assert main([*command, "--threshold", "0.5"]) == 2
    assert "an export of something else" in capsys.readouterr().err

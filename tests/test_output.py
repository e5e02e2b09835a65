"""Output that nobody reads to its end, and a disk that takes none: one line or none, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from labeler.commands.help import COMMANDS
from tests.exit_codes import environment
from tests.label_runs import row, write_run

NAMES = list(COMMANDS)
TRUTH = """{"images": [{"id": 1, "file_name": "part-0.tar/0.jpg", "width": 640, "height": 480}],
"annotations": [], "categories": [{"id": 3, "name": "cat"}]}"""
COMMANDS = [
    *([name, "--help"] for name in NAMES),
    ["--version"],
    ["vocabulary", "show", "lvis_v1"],
    ["vocabulary", "list"],
    ["status", "RUN"],
    ["status", "RUN", "--verify"],
    ["export", "RUN", "--to", "coco", "--output", "HERE/coco.json"],
    ["evaluate", "RUN", "--annotations", "HERE/truth.json"],
    ["report", "RUN"],
    ["compare", "RUN", "RUN"],
    ["forget", "RUN", "--keys", "HERE/keys"],
]


@pytest.fixture
def places(tmp_path: Path) -> Mapping[str, str]:
    write_run(tmp_path / "run", {(0, 0): [row(0), row(1)]})
    (tmp_path / "truth.json").write_text(TRUTH)
    (tmp_path / "keys").write_text("part-0.tar/1.jpg\n")
    return {"HERE": str(tmp_path), "RUN": str(tmp_path / "run")}


def ended(argv: list[str], places: Mapping[str, str], **streams: Any) -> subprocess.CompletedProcess[str]:
    for name, place in places.items():
        argv = [word.replace(name, place) for word in argv]
    options = {"stderr": subprocess.PIPE, **streams, "env": {**environment(), "PYTHONUNBUFFERED": ""}}
    return subprocess.run([sys.executable, "-m", "labeler", *argv], text=True, check=False, **options)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_full_disk_behind_the_output_is_one_line(argv: list[str], places: Mapping[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended(argv, places, stdout=full)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "labeler: the output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(argv: list[str], places: Mapping[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ended(argv, places, stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == 0, done.stderr
    for word in ("Traceback", "Exception", "Broken pipe"):
        assert word not in done.stderr


@pytest.mark.parametrize("argv", [["status", "nowhere"], ["status"], ["export", "RUN", "--to", "none"]], ids=" ".join)
def test_a_refusal_that_nobody_can_read_keeps_its_exit_code(argv: list[str], places: Mapping[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        assert ended(argv, places, stdout=full, stderr=full).returncode == 2
    assert ended(argv, places, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(2)).returncode == 2


def test_a_closed_output_is_no_error(places: Mapping[str, str]) -> None:
    assert ended(["status", "RUN"], places, preexec_fn=lambda: os.close(1)).returncode == 0

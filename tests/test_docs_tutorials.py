"""docs/tutorials/label-a-bucket.md, run as by a reader: its files are written, its commands run, on a real S3 server.

`LABELER_WRITE_TUTORIALS=1` labels as many images as the page says, and puts what the commands print into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.s3_server import S3Server

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorials" / "label-a-bucket.md"
REWRITES = bool(os.environ.get("LABELER_WRITE_TUTORIALS"))
FEWER = {"--images 1000 --images-per-shard 100": "--images 60 --images-per-shard 20"}
NOT_RUN = ("export ", "curl ", "source ", ".venv/bin/moto_server ")  # the server and the path are this test's
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_page(text: str, folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> str:
    """Do what the page says in a folder; returns the page with what its commands printed this time."""
    printed = ""

    def follow(block: re.Match[str]) -> str:
        nonlocal printed
        language, body = block[1], block[2]
        if named := re.match(r"# (\S+\.(?:txt|yaml))\n", body):
            (folder / named[1]).write_text(body)
        elif not language:
            printed = "".join(run_line(line, folder, environment, replaced) for line in body.splitlines())
        elif language == "text":
            return f"```text\n{printed}```"
        return block[0]

    return _FENCE.sub(follow, text)


def run_line(line: str, folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> str:
    """What a command line prints; long paths are cut."""
    if line.startswith(NOT_RUN):
        return ""
    for before, after in replaced.items():
        line = line.replace(before, after)
    ran = subprocess.run(
        line, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ran.returncode == 0, f"{line}: {ran.stdout}"
    return ran.stdout.replace(str(folder), "...")


def first_words(text: str) -> set[str]:
    """What the lines of the page's outputs begin with, but for steps, which are printed only if they take a second."""
    lines = [line for language, body in _FENCE.findall(text) if language == "text" for line in body.splitlines()]
    return {line.split()[0] for line in lines if re.match("[a-z]", line) and not line.endswith("...")}


@pytest.mark.slow
def test_the_commands_of_the_bucket_tutorial_run_and_print_what_it_shows(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.create_bucket("my-bucket")
    (tmp_path / "models").symlink_to(ROOT / "models")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **s3_server.env, "PYTHONPATH": str(ROOT), "PATH": path}
    text = PAGE.read_text()
    page = run_page(text, tmp_path, environment, {} if REWRITES else FEWER)
    if REWRITES:
        PAGE.write_text(page)
        return
    assert first_words(text) <= first_words(page)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="labelr label"):
        run_page("```\nlabelr label\n```\n", tmp_path, dict(os.environ), {})
    page = run_page("```\necho shown\n```\n\n```text\nstale\n```\n", tmp_path, dict(os.environ), {})
    assert first_words(page) == {"shown"}

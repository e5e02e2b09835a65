"""The cache of checkpoints where nothing can be kept: no home folder, no permission, no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from checkpoint_parts import write_checkpoint
from small_disk import small_disk

from labeler.checkpoints import resolve
from labeler.errors import Refused
from tests.exit_codes import environment
from tests.log_lines import without_steps

ADVICE = "set LABELER_CACHE to a folder that can be written and locked"


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    write_checkpoint(tmp_path / "bucket/model")
    return f"local://{tmp_path}/bucket/model"


def run_as_nobody_known(argv: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """As a user id without a passwd entry and HOME; it may read what root may, for Python itself is root's here."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("another user id needs root and setpriv")
    become = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=+dac_read_search",
              "--ambient-caps=+dac_read_search"]  # fmt: skip
    values = {key: value for key, value in environment().items() if key not in ("HOME", "LABELER_CACHE", "HF_HOME")}
    command = [*become, sys.executable, "-m", "labeler", *argv]
    return subprocess.run(command, capture_output=True, text=True, env={**values, **more}, cwd="/", check=False)


def the_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = without_steps(done.stderr)
    assert line.startswith("labeler: ")
    return line


def test_a_user_without_a_home_is_told_what_to_set(bucket: str) -> None:
    line = the_line(run_as_nobody_known(["vocabulary", "check", "coco", "--model", bucket]))
    assert "this user has no home" in line
    assert ADVICE in line
    assert ADVICE in the_line(
        run_as_nobody_known(["vocabulary", "check", "coco", "--model", bucket], XDG_CACHE_HOME="~/c")
    )
    assert "set HF_HOME" in the_line(
        run_as_nobody_known(["vocabulary", "check", "coco", "--model", "org/name"], HF_HUB_OFFLINE="1")
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["status", "~/run"], "~/run: this user has no home folder (HOME is not set); write the path in full"),
        (["vocabulary", "check", "coco", "--model", "~/model"], "~/model: this user has no home folder"),
        (["status", "~nobody-of-that-name/run"], "no run.json found"),
    ],
)
def test_a_path_from_a_home_that_is_not_known_is_one_line(argv: list[str], expected: str) -> None:
    assert expected in the_line(run_as_nobody_known(argv))


def test_a_home_that_cannot_be_written_is_told_the_same(bucket: str) -> None:
    argv = ["vocabulary", "check", "coco", "--model", bucket]
    assert ADVICE in the_line(run_as_nobody_known(argv, HOME="/nonexistent"))
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        done = run_as_nobody_known(argv, LABELER_CACHE=f"{folder}/cache")
        assert ADVICE not in done.stderr
        assert list(Path(folder).glob("cache/checkpoints/*/config.json"))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EROFS], ids=errno.errorcode.get)
def test_a_cache_that_cannot_be_locked_is_one_line(
    code: int, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Refused, match=rf"could not be stored under {tmp_path}/cache: .*; {ADVICE}"):
        resolve(bucket)


def test_a_cache_that_can_only_be_read_serves_what_it_holds(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))
    with small_disk(tmp_path / "cache", "64m") as disk:
        first = resolve(bucket)
        disk.remount("ro")
        assert resolve(bucket).folder == first.folder
        write_checkpoint(tmp_path / "bucket/other")
        with pytest.raises(Refused, match=ADVICE):
            resolve(f"local://{tmp_path}/bucket/other")


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))
    there = resolve(bucket).folder
    shutil.rmtree(there)
    there.with_suffix(".lock").unlink()
    os.mkfifo(there.with_suffix(".lock"))
    with pytest.raises(Refused, match=ADVICE):
        resolve(bucket)

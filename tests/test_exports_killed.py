"""Exports that are killed while they write: the same command removes what they left, and nothing of anybody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from labeler import owners, storage
from labeler.cli import main
from labeler.runs import Run, layout
from labeler.storage.scratch_names import OLD_S
from tests.exit_codes import environment
from tests.red_boxes import red_run
from tests.storage_parts import files_below, require_same
from tests.waiting import wait_until

SIGNALLED = """
import os, sys, threading, time
from labeler import cli

number, signal, lock = int(sys.argv[1]), int(sys.argv[2]), threading.Lock()

def counted(call):
    def write(*paths, **options):
        global number
        with lock:
            number -= 1
            if number == 0:
                os.kill(os.getpid(), signal)
                time.sleep(1)  # another thread may have got the signal: this one runs on for a moment
            return call(*paths, **options)
    return write

os.replace, os.rename = counted(os.replace), counted(os.rename)
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return red_run(tmp_path, shards=2)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files of this process and of those it starts."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def signalled(number: int, sent: signal.Signals, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """An export in a process of its own, which gets a signal when it is about to give a file its name."""
    words = [sys.executable, "-c", SIGNALLED, str(number), str(int(sent)), *command]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)


def killed(number: int, command: Sequence[str]) -> None:
    assert signalled(number, signal.SIGKILL, command).wait() == -signal.SIGKILL


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and ".tmp" in str(path.relative_to(folder))]


@pytest.mark.parametrize("number", [2, 20])
@pytest.mark.parametrize("place", ["out", "run/exports/out"])
def test_what_a_killed_export_left_is_removed_by_the_same_command(
    tmp_path: Path, run: Run, scratch: Path, place: str, number: int
) -> None:
    command = ["export", run.uri, "--to", "yolo", "--images", "copy", "--output"]
    folder = tmp_path / place
    killed(number, [*command, str(folder)])
    assert unfinished(tmp_path), "the files were not given their names"
    assert list(scratch.iterdir()), "a part was being written"
    assert main([*command, str(folder)]) == 0
    assert main([*command, str(folder.with_name("whole"))]) == 0
    require_same(folder, folder.with_name("whole"))
    assert not unfinished(tmp_path)
    assert not list(scratch.iterdir())


def test_what_a_killed_export_of_one_file_left_is_removed_and_nothing_beside_it(tmp_path: Path, run: Run) -> None:
    command = ["export", run.uri, "--to", "coco", "--output"]
    for name in ("a.json", "b.json"):
        killed(2, [*command, str(tmp_path / "out" / name)])
    assert len(unfinished(tmp_path / "out")) == 2
    assert main([*command, str(tmp_path / "out/a.json")]) == 0
    assert len(unfinished(tmp_path / "out")) == 1, "b.json was not asked for"
    assert main([*command, str(tmp_path / "out/b.json")]) == 0
    assert files_below(tmp_path / "out") == ["a.json", "b.json"]


def test_of_two_exports_at_once_neither_removes_files_of_the_other(tmp_path: Path, run: Run, scratch: Path) -> None:
    command = ["export", run.uri, "--to", "yolo", "--images", "copy", "--output"]
    first = signalled(6, signal.SIGSTOP, [*command, str(tmp_path / "out")])
    try:
        wait_until(lambda: Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        before = unfinished(tmp_path / "out"), list(scratch.iterdir())
        assert before[0]
        assert main([*command, str(tmp_path / "out")]) == 0
        assert (unfinished(tmp_path / "out"), list(scratch.iterdir())) == before
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0
    assert main([*command, str(tmp_path / "whole")]) == 0
    require_same(tmp_path / "out", tmp_path / "whole")
    assert not list(scratch.iterdir())


def test_through_fsspec_an_unfinished_file_is_not_listed_and_removed_by_the_same_command(
    tmp_path: Path, run: Run
) -> None:
    command = ["export", run.uri, "--to", "yolo", "--output"]
    for number, name in ((1, "manifest"), (3, "later")):  # the second is the note in the run
        killed(number, [*command, f"local://{tmp_path}/{name}"])
        assert unfinished(tmp_path / name)
        assert not [info for info in storage.list_objects(f"local://{tmp_path}/{name}") if "/.tmp-" in info.uri]
        assert main([*command, f"local://{tmp_path}/{name}"]) == 0
        assert main([*command, str(tmp_path / f"whole-{name}")]) == 0
        require_same(tmp_path / name, tmp_path / f"whole-{name}")


def left_of(owner: str, folder: Path) -> Path:
    """An unfinished file of a write to folder/data by a process that was killed, and had that name or its own."""
    program = f"""
import os, signal
from labeler import owners, storage
owners.owner = lambda: {owner!r} or owners._owner(os.getpid())
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
storage.put({str(folder / "data")!r}, b"half")
"""
    ended = subprocess.run([sys.executable, "-c", program], env=environment(), check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = unfinished(folder)
    return left


def test_an_unfinished_file_of_another_machine_stays_for_a_day(tmp_path: Path) -> None:
    left = left_of("0123456789abcdef-17-4711", tmp_path / "out")
    storage.remove_abandoned(str(tmp_path / "out"))
    assert left.exists()
    then = left.stat().st_mtime - OLD_S - 1
    os.utime(left, (then, then))
    storage.remove_abandoned(str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == []


def test_a_process_is_known_by_its_start_not_by_its_number_alone(tmp_path: Path) -> None:
    machine, pid, started = owners.owner().split("-")
    assert owners.is_gone(owners.owner()) is False
    assert owners.is_gone(f"{machine}-{pid}-{int(started) + 1}") is True, "this number was another process's"
    assert owners.is_gone(f"{'0' * 16}-{pid}-{started}") is None
    zombie = subprocess.Popen([sys.executable, "-c", "from labeler import owners; print(owners.owner())"],
                              env=environment(), stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert zombie.stdout is not None
    name = zombie.stdout.read().strip()
    wait_until(lambda: owners.is_gone(name))
    zombie.wait()
    assert owners.is_gone(name) is True


def test_what_other_writers_left_in_a_run_stays(tmp_path: Path) -> None:
    left = left_of("", tmp_path / "run")
    storage.put(str(tmp_path / "run" / layout.MANIFEST), b"{}")
    (tmp_path / "run/exports/hf").mkdir(parents=True)
    storage.remove_abandoned(str(tmp_path / "run/exports/hf"))
    assert left.exists()
    storage.remove_abandoned(str(tmp_path / "run/data"))
    assert not left.exists()


def test_a_folder_of_unfinished_files_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    left = left_of("", tmp_path / "elsewhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.tmp").symlink_to(left.parent)
    storage.remove_abandoned(str(tmp_path / "out"))
    assert left.exists()

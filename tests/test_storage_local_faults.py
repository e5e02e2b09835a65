"""Local file systems that lack hard links or fsync, and passing errors: writes and messages."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from log_lines import logged
from other_user import without_root
from small_disk import small_disk
from storage_parts import files_below

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.runs import layout
from labeler.storage import local_writes, retries

NO_LINKS = [errno.EXDEV, errno.EIO, errno.EACCES, errno.EROFS, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ENOTSUP,
            errno.ENOSYS, errno.EMLINK]  # fmt: skip
PASSING = [errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EMFILE]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))
    monkeypatch.setattr(local_writes, "_noted", set())


def fail(monkeypatch: pytest.MonkeyPatch, name: str, code: int, *, times: int | None = None, **only: Any) -> None:
    """Let a call of `os` fail: always, or that many times; only if `only` accepts its first argument."""
    call: Callable[..., Any] = getattr(os, name)
    left = [times]
    suits = only.get("suits", lambda argument: True)

    def failing(first: Any, *args: Any, **options: Any) -> Any:
        if suits(first) and left[0] != 0:
            left[0] = None if left[0] is None else left[0] - 1
            raise OSError(code, os.strerror(code))
        return call(first, *args, **options)

    monkeypatch.setattr(os, name, failing)


# ---- hard links


@pytest.mark.parametrize("code", NO_LINKS, ids=errno.errorcode.get)
def test_a_file_system_without_hard_links_names_single_writer_which_renames(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "link", code)
    uri = f"{tmp_path}/run/unit"
    with pytest.raises(StorageError, match=r"no hard links there .*set output.single_writer=true"):
        storage.put_if_absent(uri, b"x")
    with pytest.raises(Refused, match=r"set output.single_writer=true"):
        storage.check_put_if_absent(f"{tmp_path}/run", single_writer=False)
    storage.check_put_if_absent(f"{tmp_path}/run", single_writer=True)
    assert storage.put_if_absent(uri, b"first", single_writer=True)
    assert not storage.put_if_absent(uri, b"second", single_writer=True)
    assert storage.read_bytes(uri) == b"first"
    assert files_below(tmp_path) == ["run", "run/unit"]


def test_a_folder_that_takes_no_file_is_not_taken_for_a_file_system_without_links() -> None:
    """The run's `.tmp/` may be written, the folder of the unit may not."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        run.chmod(0o777)
        (run / layout.MANIFEST).write_text("{}")
        (run / "labels").mkdir(mode=0o755)
        with without_root():
            if os.geteuid() == run.stat().st_uid:
                (run / "labels").chmod(0o555)
            for single_writer in (False, True):
                with pytest.raises(StorageError, match=r"unit cannot be written: Permission denied; check the perm"):
                    storage.put_if_absent(f"{run}/labels/unit", b"x", single_writer=single_writer)


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """`source` mounted at `target`, too: one device, but no link leads from one mount to another."""
    target.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@pytest.mark.parametrize("single_writer", [False, True])
def test_a_folder_of_the_run_that_is_a_mount_of_its_own_is_written(tmp_path: Path, single_writer: bool) -> None:
    with small_disk(tmp_path / "disk", "16m"):
        run, elsewhere = tmp_path / "disk/run", tmp_path / "disk/elsewhere"
        elsewhere.mkdir()
        storage.put(f"{run}/{layout.MANIFEST}", b"{}")
        with bound(elsewhere, run / "labels"):
            uri = f"{run}/labels/unit"
            assert storage.put_if_absent(uri, b"first", single_writer=single_writer)
            assert not storage.put_if_absent(uri, b"second", single_writer=single_writer)
            storage.put(f"{run}/labels/other", b"x")
            assert storage.read_bytes(uri) == b"first"
        assert files_below(elsewhere) == ["other", "unit"]


# ---- fsync


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EBADF, errno.EPERM, errno.EISDIR, errno.EINVAL, errno.ENOTSUP],
                         ids=errno.errorcode.get)  # fmt: skip
def test_a_folder_that_cannot_be_synced_is_said_once(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "fsync", code, suits=lambda handle: os.path.isdir(f"/proc/self/fd/{handle}"))
    with logged("labeler.storage.local_writes") as lines:
        for number in range(3):
            assert storage.put_if_absent(f"{tmp_path}/new/{number}", b"x")
    (line,) = lines
    assert "cannot fsync folders" in line


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EINVAL], ids=errno.errorcode.get)
def test_a_file_that_cannot_be_synced_is_said_once(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "fsync", code, suits=lambda handle: os.path.isfile(f"/proc/self/fd/{handle}"))
    with logged("labeler.storage.local_writes") as lines:
        for number in range(3):
            assert storage.put_if_absent(f"{tmp_path}/new/{number}", b"x")
    (line,) = lines
    assert "cannot fsync files" in line


def test_an_fsync_that_really_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "fsync", errno.EIO, suits=lambda handle: os.path.isfile(f"/proc/self/fd/{handle}"))
    with pytest.raises(StorageError, match="unit cannot be written: Input/output error"):
        storage.put_if_absent(f"{tmp_path}/unit", b"x")
    assert files_below(tmp_path) == []


# ---- errors that pass


@pytest.mark.parametrize("code", PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "mkdir"])
def test_passing_errors_of_a_write_are_tried_again(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, call, code, times=3)
    assert storage.put_if_absent(f"{tmp_path}/new/unit", b"labels")
    monkeypatch.undo()
    assert storage.read_bytes(f"{tmp_path}/new/unit") == b"labels"
    assert files_below(tmp_path) == ["new", "new/unit"]


@pytest.mark.parametrize("code", PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_passing_errors_of_replacing_and_deleting_are_tried_again(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put(f"{tmp_path}/x", b"old")
    fail(monkeypatch, call, code, times=1)
    storage.put(f"{tmp_path}/x", b"new")
    assert storage.read_bytes(f"{tmp_path}/x") == b"new"
    fail(monkeypatch, call, code, times=3)
    storage.delete(f"{tmp_path}/x")
    assert storage.head(f"{tmp_path}/x") is None


def test_an_error_that_does_not_pass_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "link", errno.ESTALE)
    with pytest.raises(StorageError, match=r"unit: storage failed 4 times in a row \(Stale.*check the file system"):
        storage.put_if_absent(f"{tmp_path}/unit", b"x")
    assert files_below(tmp_path) == []

"""labeler.storage on local files: what only they can do, and the preflight on them."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from labeler import storage
from labeler.errors import InputChanged, Refused, StorageError
from labeler.runs import layout
from labeler.storage import retries
from labeler.storage.failures import Unreadable
from tests.storage_parts import files_below


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


def test_a_changed_local_file_is_input_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    info = storage.head(str(path))
    assert info is not None
    assert info.etag == f"{path.stat().st_mtime_ns}-5"
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputChanged, match="x changed: its ETag was"):
        storage.read_bytes(str(path), etag=info.etag)


def test_local_put_if_absent_keeps_the_first_and_leaves_nothing_else(tmp_path: Path) -> None:
    uri = str(tmp_path / "run/labels/000000/000001.parquet")
    assert storage.put_if_absent(uri, b"first")
    assert not storage.put_if_absent(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert files_below(tmp_path) == ["run", "run/labels", "run/labels/000000", "run/labels/000000/000001.parquet"]


def test_inside_a_run_temporary_files_use_the_runs_own_folder(tmp_path: Path) -> None:
    storage.put(str(tmp_path / layout.MANIFEST), b"{}")
    storage.put_if_absent(str(tmp_path / "labels/000000/000001.parquet"), b"x")
    assert files_below(tmp_path) == [".tmp", "labels", "labels/000000", "labels/000000/000001.parquet", "run.json"]
    (tmp_path / ".tmp/left-by-a-crash").write_bytes(b"half")
    assert [storage.basename(found.uri) for found in storage.list_objects(str(tmp_path))] == [
        "000001.parquet",
        "run.json",
    ]


def test_of_many_writers_one_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    for number in range(20):
        uri = str(tmp_path / f"a/{number}/unit")
        start = threading.Barrier(8)

        def write(me: int, uri: str = uri, start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.put_if_absent(uri, bytes([me]) * 1000)

        with ThreadPoolExecutor(8) as pool:
            won = [me for me, written in enumerate(pool.map(write, range(8))) if written]  # nobody's raises
        assert len(won) == 1
        assert storage.read_bytes(uri) == bytes(won) * 1000
    assert not [name for name in files_below(tmp_path) if ".tmp" in name]


@contextmanager
def small_files_only() -> Iterator[None]:
    """The kernel refuses file bytes past 4096, as on a full disk; not for longer, or pytest's own report fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_many_threads_write_many_files_into_one_new_folder(tmp_path: Path) -> None:
    """Each takes the folder for temporary files away when it is empty, and another may be about to use it."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: storage.put(str(tmp_path / "new" / f"{i}"), b"%d" % i), range(400)))
    assert files_below(tmp_path / "new") == sorted(str(i) for i in range(400))


def test_no_space_is_one_clear_line_and_leaves_no_file(tmp_path: Path) -> None:
    for write in (storage.put, storage.put_if_absent):
        with (
            pytest.raises(StorageError, match=r"unit: no space left .* free some, then run again"),
            small_files_only(),
        ):
            write(str(tmp_path / "a/unit"), b"x" * 10_000)
    assert files_below(tmp_path) == ["a"]


def test_a_file_in_the_way_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match="a/b/c cannot be written: "):
        storage.put(str(tmp_path / "a/b/c"), b"x")


def test_a_path_that_cannot_be_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    for path in ("with\0null", "x" * 5000):
        with pytest.raises(Unreadable) as caught:
            storage.read_bytes(f"{tmp_path}/{path}")
        assert caught.value.reason == "not a valid address"


# ---- the preflight


@pytest.mark.parametrize("exists", [False, True])
def test_the_preflight_passes_on_local_files_and_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    root = tmp_path / "new/run"
    if exists:
        root.mkdir(parents=True)
    before = files_below(tmp_path)
    storage.check_put_if_absent(str(root), single_writer=False)
    assert files_below(tmp_path) == before


def test_the_preflight_refuses_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match=r"output cannot be used: .*file/run"):
        storage.check_put_if_absent(str(tmp_path / "file/run"), single_writer=False)


def test_the_preflight_refuses_fsspec_backends_without_the_single_writer_promise(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"local:// has no put-if-absent here; set output.single_writer=true"):
        storage.check_put_if_absent(f"local://{tmp_path}/run", single_writer=False)
    storage.check_put_if_absent(f"local://{tmp_path}/run", single_writer=True)
    assert files_below(tmp_path) == []

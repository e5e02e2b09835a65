"""Checkpoints on object storage: fsspec's local files replace a bucket, through the same package."""

from __future__ import annotations

import fcntl
import multiprocessing
import shutil
import threading

import pytest

from labeler import checkpoints
from labeler.checkpoints import resolve
from labeler.errors import Refused
from tests.checkpoint_parts import write_checkpoint
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bucket(tmp_path):
    """A folder that is only reached through fsspec, as any object store is."""
    write_checkpoint(tmp_path / "bucket" / "model")
    training_state = tmp_path / "bucket" / "model" / "states" / "optimizer.safetensors"
    training_state.parent.mkdir()
    training_state.write_bytes(b"not wanted")
    return f"local://{tmp_path}/bucket/model"


def test_a_url_is_fetched_once_into_the_cache(bucket, tmp_path):
    first = resolve(bucket)
    assert first.digest == resolve(tmp_path / "bucket" / "model").digest
    assert checkpoints.cache_folder() in first.folder.parents
    assert not (first.folder / "optimizer.safetensors").exists()
    inode = (first.folder / "model.safetensors").stat().st_ino
    again = resolve(bucket)
    assert again.folder == first.folder
    assert (again.folder / "model.safetensors").stat().st_ino == inode


def test_the_files_of_every_tokenizer_are_fetched(bucket, tmp_path):
    names = {"vocab.json", "merges.txt", "spiece.model"}
    for name in names:
        (tmp_path / "bucket" / "model" / name).write_text(name)
    found = resolve(bucket, weights=False).folder
    assert names <= {path.name for path in found.iterdir()}


def test_a_changed_checkpoint_is_fetched_again(bucket, tmp_path):
    first = resolve(bucket)
    (tmp_path / "bucket" / "model" / "vocab.txt").write_text("[PAD]\nnew\n")
    second = resolve(bucket)
    assert second.folder != first.folder
    assert second.digest != first.digest


def test_without_weights_none_are_fetched(bucket):
    assert not (resolve(bucket, weights=False).folder / "model.safetensors").exists()


def test_what_a_killed_process_left_is_cleared_away(bucket):
    there = resolve(bucket).folder
    left_over = there.with_name(there.name + "abc.partial")
    there.rename(left_over)
    assert resolve(bucket).folder == there
    assert not left_over.exists()


def test_many_processes_fetch_it_once(bucket):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.map(_resolved_inode, [bucket] * 3)
    assert len(set(folders)) == 1


def _resolved_inode(uri: str) -> tuple[str, int]:
    folder = resolve(uri).folder
    return str(folder), (folder / "model.safetensors").stat().st_ino


def test_who_finds_another_process_fetching_waits_for_it(bucket):
    there = resolve(bucket).folder
    shutil.rmtree(there)
    with there.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=resolve, args=(bucket,))
        waiting.start()
        waiting.join(timeout=0.5)  # it must not continue
        assert waiting.is_alive()
        assert not there.exists()
    waiting.join(timeout=PATIENCE_S)
    assert there.exists()


def test_a_url_with_nothing_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="no checkpoint at"):
        resolve(f"local://{tmp_path}/empty")


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(Refused):
        resolve("nosuch://bucket/model")

"""Listing local folders: what a bad entry costs, what a folder that goes away costs, and what links multiply."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from log_lines import logged
from other_user import without_root

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.shards import find_shards
from labeler.storage import retries


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images in each of two folders."""
    for name in ("a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


ALL = ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"]


def keys_in(uri: str | list[str], known: tuple[str, ...] = ()) -> list[str]:
    return [member.key for shard in find_shards(uri, known=known) for member in shard.members or ()]


def listed(folder: Path, *, recursive: bool = True) -> tuple[list[str], dict[str, str]]:
    """(names, what was skipped and why), both relative to the folder."""
    skipped: dict[str, str] = {}
    found = list(storage.list_objects(str(folder), recursive=recursive, on_skipped=skipped.__setitem__))
    start = f"{folder}/"
    return [f.uri.removeprefix(start) for f in found], {u.removeprefix(start): why for u, why in skipped.items()}


# ---- one bad entry


BAD_LINKS = [("0.jpg/x", "Not a directory"), ("old.jpg", "Too many levels"), ("x" * 300, "File name too long"),
             ("nothing", "a link to nothing")]  # fmt: skip


@pytest.mark.parametrize(("target", "reason"), BAD_LINKS)
def test_a_bad_link_costs_itself_is_named_and_hides_no_other_image(images: Path, target: str, reason: str) -> None:
    (images / "a/old.jpg").symlink_to(target)
    names, skipped = listed(images)
    assert names == ALL
    assert list(skipped) == ["a/old.jpg"]
    assert skipped["a/old.jpg"].startswith(reason)
    with logged("labeler.shards.find") as lines:
        assert keys_in(str(images)) == ALL
        assert keys_in(f"{images}/*/*.jpg") == ALL
        assert keys_in(f"{images}/a/{{{','.join(map(str, range(3)))}}}.jpg") == ["0.jpg", "1.jpg", "2.jpg"]
    assert f"skipped 1 unreadable entry of the input, for example {images}/a/old.jpg ({reason}" in lines[0]


@pytest.mark.parametrize(("target", "reason"), BAD_LINKS)
def test_a_run_s_own_listing_is_never_short_without_a_word(images: Path, target: str, reason: str) -> None:
    (images / "a/old.jpg").symlink_to(target)
    with pytest.raises(StorageError, match=rf"a/old.jpg cannot be listed: {reason}.*; check the path"):
        list(storage.list_objects(str(images)))


def test_many_bad_entries_are_counted_in_one_line(images: Path) -> None:
    for number in range(20):
        (images / f"b/{number}-\x1b[31m.jpg").symlink_to("nothing")
    with logged("labeler.shards.find") as lines:
        assert keys_in(str(images)) == ALL
    (line,) = lines
    assert line.startswith(f"skipped 20 unreadable entries of the input, for example {images}/b/0-\\x1b[31m.jpg (")


def test_special_files_are_named_and_never_waited_for(images: Path) -> None:
    os.mkfifo(images / "a/pipe.jpg")
    assert listed(images) == (ALL, {"a/pipe.jpg": "not a regular file"})
    assert len(list(storage.list_objects(str(images)))) == len(ALL)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, too: pytest's own cannot."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_an_unreadable_subfolder_costs_itself_and_an_unreadable_input_is_refused_by_its_name() -> None:
    with open_folder() as folder:
        (folder / "0.jpg").write_bytes(b"x")
        (folder / "lost+found").mkdir(mode=0o700)
        (folder / "link").symlink_to("lost+found/inside")
        (folder / "lost+found").chmod(0o000)
        with without_root():
            assert listed(folder) == (
                ["0.jpg"],
                {"link": "Permission denied", "lost+found": "Permission denied"},
            )
            assert keys_in(str(folder)) == ["0.jpg"]
            assert listed(folder, recursive=False) == (["0.jpg"], {"link": "Permission denied"})
            with pytest.raises(StorageError, match=r"lost\+found cannot be listed: Permission denied"):
                list(storage.list_objects(f"{folder}/lost+found", on_skipped=lambda uri, reason: None))
            with pytest.raises(Refused, match=r"input cannot be read: .*lost\+found cannot be listed"):
                find_shards(f"{folder}/lost+found")


# ---- folders that go away, and errors that pass


def test_a_folder_that_goes_away_meanwhile_is_no_error(images: Path) -> None:
    walk = storage.list_objects(str(images))
    assert next(walk).uri == f"{images}/a/0.jpg"
    for path in (images / "b").iterdir():
        path.unlink()
    (images / "b").rmdir()
    (images / "a/1.jpg").unlink()
    assert [info.uri for info in walk] == [f"{images}/a/2.jpg"]
    assert list(storage.list_objects(f"{images}/a/0.jpg/x")) == []


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE])
def test_passing_errors_of_a_listing_are_tried_again(images: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders and files fail at their first three looks each."""
    looks: dict[str, int] = {}

    def failing(call):  # type: ignore[no-untyped-def]
        def tried(path, *args, **options):  # type: ignore[no-untyped-def]
            looks[str(path)] = looks.get(str(path), 0) + 1
            if str(path).startswith(str(images)) and looks[str(path)] <= 3:
                raise OSError(code, os.strerror(code), path)
            return call(path, *args, **options)

        return tried

    monkeypatch.setattr(os, "stat", failing(os.stat))
    assert [info.uri.removeprefix(f"{images}/") for info in storage.list_objects(str(images))] == ALL
    looks.clear()
    monkeypatch.undo()
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))
    monkeypatch.setattr(os, "scandir", failing(os.scandir))
    assert [info.uri.removeprefix(f"{images}/") for info in storage.list_objects(str(images))] == ALL


def test_an_error_that_does_not_pass_costs_its_entry_in_an_input_and_ends_any_other_listing(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def stale(path, *args, **options):  # type: ignore[no-untyped-def]
        if str(path).endswith("a/1.jpg"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", stale)
    assert listed(images) == ([name for name in ALL if name != "a/1.jpg"], {"a/1.jpg": "Stale file handle"})
    with pytest.raises(StorageError, match=r"a/1.jpg cannot be listed: Stale file handle"):
        list(storage.list_objects(str(images)))


def test_a_folder_deeper_than_pythons_stack_is_listed(tmp_path: Path) -> None:
    relative = "d/" * 1200
    subprocess.run(["mkdir", "-p", relative], cwd=tmp_path, check=True)
    try:
        (tmp_path / relative / "x.jpg").write_bytes(b"x")
        (found,) = storage.list_objects(str(tmp_path))
        assert found.uri == f"{tmp_path}/{relative}x.jpg"
    finally:
        subprocess.run(["rm", "-r", "d"], cwd=tmp_path, check=True)  # too deep for shutil.rmtree, too


# ---- links to folders


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x").write_bytes(b"1")
    (tmp_path / "real/again").symlink_to(tmp_path / "real")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert listed(tmp_path) == (["linked/x", "real/x"], {})


def test_a_diamond_of_links_gives_each_image_once_under_its_path_without_links(images: Path) -> None:
    (images / "A-link").symlink_to("a")
    (images / "z").symlink_to(images / "a")
    (images / "b/to-a").symlink_to("../a")
    assert keys_in(str(images)) == ALL
    assert keys_in(f"{images}/*/*.jpg") == ALL
    assert keys_in([str(images), f"{images}/z"]) == ALL


def test_links_to_a_folder_outside_give_each_image_once_under_the_first_path(images: Path) -> None:
    top = images / "top"
    top.mkdir()
    (top / "first").symlink_to(images / "a")
    (top / "second").symlink_to(images / "a")
    assert keys_in(str(top)) == ["first/0.jpg", "first/1.jpg", "first/2.jpg"]
    assert keys_in(f"{top}/s*/*.jpg") == ["second/0.jpg", "second/1.jpg", "second/2.jpg"], "the pattern names this one"
    planned = tuple(f"{top}/second/{number}.jpg" for number in range(3))
    assert keys_in(str(top), known=planned) == [], "an earlier plan has them under the other path"


def test_a_link_to_a_hidden_folder_is_the_one_path_that_counts(images: Path) -> None:
    (images / "a").rename(images / "..data")
    (images / "_raw").mkdir()
    (images / "a").symlink_to("..data")
    assert keys_in(str(images)) == ALL


def test_links_to_files_are_names_of_their_own(images: Path) -> None:
    (images / "blobs").mkdir()
    (images / "a/0.jpg").rename(images / "blobs/5f2e")
    (images / "a/0.jpg").symlink_to("../blobs/5f2e")
    assert keys_in(str(images)) == ALL


def test_what_is_named_in_full_is_always_taken(images: Path) -> None:
    (images / "z").symlink_to("a")
    assert keys_in([f"{images}/a/0.jpg", f"{images}/z/0.jpg"]) == ["a/0.jpg", "z/0.jpg"]
    assert keys_in([str(images / "a"), f"{images}/z/0.jpg"]) == ["a/1.jpg", "a/2.jpg", "z/0.jpg"]


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    """Twelve folders, each with a link to every other one: 12! paths without a circle."""
    for one in range(12):
        folder = tmp_path / f"{one:02d}"
        folder.mkdir()
        (folder / "x.jpg").write_bytes(b"x")
        for other in range(12):
            (folder / f"to-{other:02d}").symlink_to(f"../{other:02d}")
    assert keys_in(str(tmp_path)) == [f"{one:02d}/x.jpg" for one in range(12)]

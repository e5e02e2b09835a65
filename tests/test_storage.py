"""labeler.storage through every backend that a path can be given to, and through fsspec."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from labeler import storage
from labeler.errors import InputChanged, StorageError
from labeler.storage import retries
from labeler.storage.failures import Transient, Unreadable
from labeler.storage.streams import ByteStream
from tests.storage_parts import files_below

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


# ---- URIs


@pytest.mark.parametrize(
    ("uri", "parts", "expected"),
    [
        ("s3://bucket", ("a", "b"), "s3://bucket/a/b"),
        ("s3://bucket/x/", ("a",), "s3://bucket/x/a"),
        ("/", ("a",), "/a"),
        ("", ("a", "b"), "a/b"),
        ("file:///", ("a",), "file:///a"),
        ("folder", (), "folder"),
    ],
)
def test_join_puts_one_slash_between(uri: str, parts: tuple[str, ...], expected: str) -> None:
    assert storage.join(uri, *parts) == expected


def test_basename_and_parent_are_the_two_halves() -> None:
    assert storage.basename("s3://bucket/a/b.tar") == "b.tar"
    assert storage.basename("/data/folder/") == "folder"
    assert storage.parent("s3://bucket/a/b.tar") == "s3://bucket/a"
    assert storage.parent("/a") == "/"


@pytest.mark.parametrize(
    ("uri", "is_local"),
    [("", True), ("a/b", True), ("/a", True), ("file:///a", True), ("local:///a", False), ("s3://b/k", False),
     ("simplecache::s3://b/k", False)],
)  # fmt: skip
def test_only_plain_paths_and_file_uris_are_local(uri: str, is_local: bool) -> None:
    assert storage.is_local(uri) == is_local


def test_redact_removes_passwords_and_query_values_and_nothing_else() -> None:
    secret = "https://me:pass@host/a?X-Amz-Signature=abc&b=c"
    assert storage.redact(secret) == "https://***@host/a?..."
    assert storage.redact(f"HTTP 403 for url {secret}, sorry") == "HTTP 403 for url https://***@host/a?..., sorry"
    assert storage.redact("https://me:p@ss:w@host/a@b.jpg") == "https://***@host/a@b.jpg"
    assert storage.redact("see 'https://host/x.jpg?bare-token', it failed") == "see 'https://host/x.jpg?...', it failed"
    for plain in ("s3://bucket/shard-?.tar", "/data/a@b/c", "s3://bucket/a b"):
        assert storage.redact(plain) == plain


# ---- reading, for every backend that a path can be given to


@pytest.fixture(params=["", "file://", "local://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}{tmp_path}/root"


def test_a_missing_folder_lists_as_empty(root: str) -> None:
    assert list(storage.list_objects(root)) == []
    assert storage.head(root + "/x") is None


def test_listing_is_recursive_sorted_and_keeps_the_form_of_the_uri(root: str) -> None:
    for name in ("b/2.txt", "a.txt", "b/1.txt", "a/x"):
        storage.put(storage.join(root, name), name.encode())
    expected = [f"{root}/{name}" for name in ("a.txt", "a/x", "b/1.txt", "b/2.txt")]
    assert [found.uri for found in storage.list_objects(root)] == expected
    assert [found.uri for found in storage.list_objects(root + "/", recursive=False)] == expected[:1]
    assert next(iter(storage.list_objects(root))).size == 5
    assert list(storage.list_objects(root + "/a.txt")) == []


def test_a_neighbour_with_the_same_beginning_is_not_listed(root: str) -> None:
    storage.put(root + "/labels/x", b"1")
    storage.put(root + "/labels-old/x", b"1")
    assert [found.uri for found in storage.list_objects(root + "/labels")] == [root + "/labels/x"]


def test_head_agrees_with_the_listing_and_knows_no_folders(root: str) -> None:
    storage.put(root + "/a/b", b"123")
    assert storage.head(root + "/a/b") == next(iter(storage.list_objects(root)))
    assert storage.head(root + "/a") is None


def test_ranges_are_exact_and_verified(root: str) -> None:
    data = bytes(range(256)) * 20
    storage.put(root + "/x", data)
    assert storage.read_bytes(root + "/x") == data
    assert storage.read_bytes(root + "/x", start=300) == data[300:]
    assert storage.read_bytes(root + "/x", start=10, length=700) == data[10:710]
    assert storage.read_bytes(root + "/x", start=len(data)) == b""
    assert storage.read_bytes(root + "/x", start=5, length=0) == b""
    with pytest.raises(InputChanged, match="5120 bytes"):
        storage.read_bytes(root + "/x", start=5000, length=121)


def test_an_empty_object_reads_as_empty(root: str) -> None:
    storage.put(root + "/x", b"")
    assert storage.read_bytes(root + "/x") == b""
    with storage.open_stream(root + "/x") as stream:
        assert (stream.read(10), stream.size, stream.skip(5)) == (b"", 0, 0)


def test_a_missing_object_is_unreadable_for_good_and_says_which(root: str) -> None:
    with pytest.raises(Unreadable, match="root/gone: no such") as caught:
        storage.read_bytes(root + "/gone")
    assert caught.value.reason == "missing object"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), "missing object")


def test_another_size_than_planned_is_input_changed(root: str) -> None:
    storage.put(root + "/x", b"12345")
    with pytest.raises(InputChanged, match="root/x has 5 bytes where 4 were expected"):
        storage.read_bytes(root + "/x", size=4)


def test_a_stream_reads_skips_and_tells(root: str) -> None:
    data = os.urandom(3 << 20)
    storage.put(root + "/x", data)
    with storage.open_stream(root + "/x", size=len(data), start=7) as stream:
        assert stream.read(512) == data[7:519]
        assert stream.skip(2 << 20) == 2 << 20
        assert stream.tell() == 519 + (2 << 20)
        assert stream.read(100) == data[stream.tell() - 100 : stream.tell()]
        assert stream.skip(10) == 10
        assert stream.read(1 << 30) == data[519 + (2 << 20) + 110 :]
        assert (stream.read(1), stream.skip(1), stream.tell()) == (b"", 0, len(data))


def test_deleting_is_fine_twice(root: str) -> None:
    storage.put(root + "/x", b"1")
    storage.delete(root + "/x")
    storage.delete(root + "/x")
    assert list(storage.list_objects(root)) == []


def test_put_replaces_and_put_file_uploads(root: str, tmp_path: Path) -> None:
    storage.put(root + "/a/x", b"old")
    storage.put(root + "/a/x", b"new")
    assert storage.read_bytes(root + "/a/x") == b"new"
    (tmp_path / "big").write_bytes(b"big" * 1000)
    storage.put_file(root + "/c/y", tmp_path / "big")
    assert storage.read_bytes(root + "/c/y") == b"big" * 1000
    with pytest.raises(StorageError):
        storage.put_file(root + "/c/z", tmp_path / "none")
    assert [storage.basename(found.uri) for found in storage.list_objects(root)] == ["x", "y"]


# ---- fsspec


def test_fsspec_put_if_absent_with_a_single_writer(tmp_path: Path) -> None:
    uri = f"local://{tmp_path}/a/unit"
    with pytest.raises(StorageError, match="single_writer=true"):
        storage.put_if_absent(uri, b"first")
    assert storage.put_if_absent(uri, b"first", single_writer=True)
    assert not storage.put_if_absent(uri, b"second", single_writer=True)
    assert files_below(tmp_path) == ["a", "a/unit"]
    assert (tmp_path / "a/unit").read_bytes() == b"first"


def test_what_one_process_writes_through_fsspec_another_sees(tmp_path: Path) -> None:
    storage.put(f"local://{tmp_path}/x", b"seen")
    program = f"from labeler import storage; print(storage.read_bytes('local://{tmp_path}/x'))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "b'seen'"


def test_unknown_protocols_are_refused_in_one_line() -> None:
    with pytest.raises(Unreadable, match="fsspec cannot open this address"):
        storage.read_bytes("nosuch://me:secret@host/x")
    with pytest.raises(Unreadable) as caught:
        storage.read_bytes("nosuch://me:secret@host/x")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


class FakeGcs(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """gcsfs's conditional create, as far as storage relies on it; a real bucket needs the network."""

    protocol = "gs"
    objects: ClassVar[dict[str, bytes]] = {}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object) -> None:
        if mode == "create" and path in self.objects:
            raise FileExistsError(path)
        self.objects[path] = value

    def info(self, path: str, **options: object) -> dict[str, object]:
        return {"name": path, "size": len(self.objects[path]), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
        return self.objects[path][start:end]

    def _open(self, path: str, mode: str = "rb", **options: object) -> io.BytesIO:
        return io.BytesIO(self.objects[path])

    def rm_file(self, path: str) -> None:
        self.objects.pop(path)


def test_gs_writes_conditionally_without_a_promise() -> None:
    fsspec.register_implementation("gs", FakeGcs, clobber=True)
    try:
        assert storage.put_if_absent("gs://bucket/x", b"first")
        assert not storage.put_if_absent("gs://bucket/x", b"second")
        assert FakeGcs.objects == {"bucket/x": b"first"}
        storage.delete("gs://bucket/x")
        storage.check_put_if_absent("gs://bucket/run", single_writer=False)
        assert FakeGcs.objects == {}
    finally:
        importlib.import_module("fsspec.registry")._registry.pop("gs", None)


# ---- the stream's own patience


class _Body:
    """A body that breaks off after `good` bytes."""

    is_whole = False

    def __init__(self, data: bytes, start: int, good: int) -> None:
        self.size, self.etag = len(data), "tag"
        self._rest = data[start : start + good]

    def read(self, n: int) -> bytes:
        piece, self._rest = self._rest[:n], self._rest[n:]
        return piece

    def close(self) -> None:
        return None


def test_a_stream_resumes_at_the_right_byte_and_pins_the_etag() -> None:
    data = os.urandom(1000)
    opened: list[tuple[int, str | None]] = []

    def open_body(start: int, length: int | None, etag: str | None) -> _Body:
        opened.append((start, etag))
        return _Body(data, start, 300)

    with ByteStream("x", open_body) as stream:
        assert stream.read(5000) == data
    assert opened == [(0, None), (300, "tag"), (600, "tag"), (900, "tag")]


def test_a_stream_without_progress_gives_up_in_one_line() -> None:
    def open_body(start: int, length: int | None, etag: str | None) -> _Body:
        raise Transient("reset by peer")

    before = storage.traffic().retries
    with (
        ByteStream("s3://b/x?token=abc", open_body) as stream,
        pytest.raises(StorageError, match=r"s3://b/x\?\.\.\.: storage failed 4 times in a row \(reset by peer\)"),
    ):
        stream.read(1)
    assert storage.traffic().retries == before + 3

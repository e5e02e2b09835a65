"""labeler.storage on a real web server: its answers, and features it may lack."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from labeler import storage
from labeler.errors import InputChanged, Refused, StorageError
from labeler.shards import Item, Unit, find_shards, read_units
from labeler.storage import causes, http_store, retries
from labeler.storage.failures import Transient, Unreadable
from tests.certificates import Certificate
from tests.http_server import Web, serving
from tests.inputs import image_bytes, tar_bytes

BUSY = (408, 425, 429, 500, 502, 503, 504, 520)
DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


def items_of(uri: str, **options: str) -> list[Item]:
    units = [unit for shard in find_shards(uri, **options) for unit in read_units(shard)]  # type: ignore[arg-type]
    return [item for unit in units if isinstance(unit, Unit) for item in unit.items]


def column(folder: Path, addresses: list[str]) -> str:
    pq.write_table(pa.table({"url": addresses}), folder / "addresses.parquet")
    return f"{folder}/addresses.parquet"


# ---- what an answer means


@pytest.mark.parametrize("status", BUSY)
def test_a_busy_server_is_asked_again(web: Web, status: int) -> None:
    uri = web.put("/a.jpg", DATA)
    web.answer("/a.jpg", status, times=2)
    assert storage.read_bytes(uri) == DATA
    web.answer("/a.jpg", status, times=2)
    found = storage.head(uri)
    assert found is not None
    assert found.size == len(DATA)
    web.answer("/a.jpg", status, times=9)
    with pytest.raises(StorageError, match=f"storage failed 4 times in a row .HTTP {status}.") as caught:
        storage.read_bytes(uri)
    assert not isinstance(caught.value, Unreadable), "never a row"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "missing object"), (410, "missing object"), (401, "access denied"), (403, "access denied"),
     (451, "access denied"), (400, "HTTP 400"), (405, "HTTP 405")],
)  # fmt: skip
def test_a_final_answer_is_not_asked_for_again(web: Web, status: int, reason: str) -> None:
    uri = web.put("/a.jpg?token=s3cret", DATA).partition("?")[0] + "?token=s3cret"
    web.answer("/a.jpg", status)
    with pytest.raises(Unreadable) as caught:
        storage.read_bytes(uri)
    assert caught.value.reason == reason
    assert "s3cret" not in str(caught.value)
    assert len(web.requests) == 1


def test_an_address_column_survives_each_code_twice_and_names_what_is_final(web: Web, tmp_path: Path) -> None:
    final = {401: "access denied", 403: "access denied", 404: "missing object", 410: "missing object"}
    addresses = []
    for status in (*BUSY, *final):
        addresses.append(web.put(f"/{status}.png", image_bytes(status)))
        web.answer(f"/{status}.png", status, times=2)
    items = items_of(column(tmp_path, addresses))
    assert [item.error for item in items] == [None] * len(BUSY) + list(final.values())
    assert [item.data for item in items[: len(BUSY)]] == [image_bytes(status) for status in BUSY]


def test_a_tar_survives_each_code_twice(web: Web) -> None:
    members = {f"{number}.png": image_bytes(number) for number in range(5)}
    uri = web.put("/a.tar", tar_bytes(members))
    for status in BUSY:
        web.answer("/a.tar", status, times=2)
        (shard,) = find_shards(uri)
        web.answer("/a.tar", status, times=2)
        (unit, _) = read_units(shard)
        assert isinstance(unit, Unit)
        assert {item.key: item.data for item in unit.items} == members


def test_a_server_that_stays_busy_fails_the_shard_and_makes_no_row(web: Web, tmp_path: Path) -> None:
    uri = column(tmp_path, [web.put("/a.png", image_bytes(1))])
    web.answer("/a.png", 503, times=99)
    (shard,) = find_shards(uri)
    with pytest.raises(StorageError, match="HTTP 503"):
        list(read_units(shard))


def test_a_pause_that_the_server_asks_for_is_kept_within_bounds(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_asked_s=0.5))
    uri = web.put("/a.jpg", DATA)
    web.answer("/a.jpg", 503, headers={"Retry-After": "3600"})
    started = time.monotonic()
    assert storage.read_bytes(uri) == DATA
    assert time.monotonic() - started >= 0.5
    for asked, expected in ((formatdate(time.time() + 100, usegmt=True), 100), ("7", 7), ("1.5", 1.5)):
        assert causes.asked_pause_s({"retry-after": asked}) == pytest.approx(expected, abs=30)
    for nonsense in ("", "soon", "-5", "9" * 400, formatdate(0, usegmt=True), "inf"):
        assert retries.POLICY.pause_s(1, causes.asked_pause_s({"Retry-After": nonsense})) <= 0.5


# ---- no answer


def test_a_refused_connection_is_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StorageError, match=r"4 times in a row .*refused") as caught:
        storage.read_bytes(f"http://127.0.0.1:{port}/a.jpg?s3cret")
    assert not isinstance(caught.value, Unreadable)
    assert "s3cret" not in str(caught.value)


def no_such_host(*args: object, **options: object) -> object:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_host_that_does_not_exist_is_a_row_once_it_was_asked_for_often(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)  # a name service needs the network
    monkeypatch.setattr(http_store, "_unknown_since", {})
    items = items_of(column(tmp_path, ["http://nosuch.example/a.png"]))
    assert [item.error for item in items] == ["unreachable address"]
    monkeypatch.setattr(http_store, "_BELIEVED_AFTER_S", 0.0)
    before = storage.traffic().retries
    assert [item.error for item in items_of(column(tmp_path, ["http://nosuch.example/b.png"]))] == [items[0].error]
    assert storage.traffic().retries == before, "the next address there is not waited for"


def test_a_name_service_that_does_not_answer_is_passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*args: object, **options: object) -> object:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_answer)
    with pytest.raises(StorageError, match="Temporary failure in name resolution") as caught:
        storage.read_bytes("http://images.example/a.jpg")
    assert not isinstance(caught.value, Unreadable)


@pytest.mark.parametrize("address", ["http:///a.jpg", "http://[::1/a.jpg", "http://a..b/c.jpg", "http://h:99999/a.jpg"])
def test_an_address_that_cannot_be_one_is_a_row(address: str, tmp_path: Path) -> None:
    assert [item.error for item in items_of(column(tmp_path, [address]))] == ["not a valid address"]


def test_redirects_are_followed_and_a_circle_is_a_row(web: Web, tmp_path: Path) -> None:
    web.put("/new.png", image_bytes(1))
    web.answer("/old.png", 302, headers={"Location": "/new.png"})
    web.answer("/circle.png", 302, times=99, headers={"Location": "/circle.png"})
    items = items_of(column(tmp_path, [web.url + "/old.png", web.url + "/circle.png"]))
    assert [(item.data, item.error) for item in items] == [(image_bytes(1), None), (None, "unreachable address")]


def test_a_certificate_that_is_not_trusted_is_named(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(certificate.server) as web:
        uri = web.put("/a.png", image_bytes(1))
        monkeypatch.setattr(http_store, "_pools", {})
        with pytest.raises(Unreadable, match="certificate is not trusted; set SSL_CERT_FILE") as caught:
            storage.read_bytes(uri)
        assert caught.value.reason == "unreachable address"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.bundle))
        monkeypatch.setattr(http_store, "_pools", {})
        assert storage.read_bytes(uri) == image_bytes(1)


# ---- what servers lack


@pytest.mark.parametrize("missing", ["has_head", "has_ranges", "has_lengths", "etags", ""])
def test_the_bytes_are_right_whatever_a_server_leaves_out(web: Web, missing: str) -> None:
    data = image_bytes(1, width=900, height=900)
    uri = web.put("/a.png", data)
    web.coding = "" if missing else "gzip"
    if missing:
        setattr(web, missing, False)
    assert storage.read_bytes(uri) == data
    assert storage.read_bytes(uri, start=1000, length=50) == data[1000:1050]
    assert storage.read_bytes(uri, start=len(data)) == b""
    with storage.open_stream(uri, start=2000) as stream:
        assert stream.read(10) == data[2000:2010]
        assert stream.skip(len(data) - 4010) == len(data) - 4010
        assert stream.read(1 << 30) == data[-2000:]
    found = storage.head(uri)
    assert found is not None
    assert found.size == len(data)
    with pytest.raises(InputChanged):
        storage.read_bytes(uri, start=len(data) - 5, length=10)
    assert storage.head(web.url + "/none") is None


def test_an_empty_file_reads_as_empty(web: Web) -> None:
    uri = web.put("/empty", b"")
    for web.has_lengths in (True, False):
        assert storage.read_bytes(uri) == b""
        found = storage.head(uri)
        assert found is not None
        assert found.size == 0


def test_a_long_skip_on_a_server_without_ranges_reads_on(web: Web) -> None:
    data = bytes(3 << 20) + b"end"
    uri = web.put("/a.tar", data)
    web.has_ranges = False
    with storage.open_stream(uri, start=5) as stream:
        stream.read(1)
        stream.skip(stream.size - 9)
        assert stream.read(10) == b"end"
    assert len(web.requests) == 1


def test_a_body_that_breaks_off_is_resumed(web: Web) -> None:
    data = image_bytes(1, width=900, height=900)
    uri = web.put("/a.png", data)
    web.cuts = 3
    assert storage.read_bytes(uri) == data
    assert len(web.requests) == 4


def test_another_version_in_the_middle_is_input_changed(web: Web) -> None:
    uri = web.put("/a.png", DATA)
    etag = storage.open_stream(uri)
    etag.read(1)
    web.put("/a.png", DATA[::-1])
    with pytest.raises(InputChanged, match="its ETag was"):
        storage.read_bytes(uri, etag=etag.etag)


def test_a_login_in_the_address_is_sent_and_never_shown(web: Web) -> None:
    uri = web.put("/a.png", DATA).replace("http://", "http://me:p%40ss@")
    assert storage.read_bytes(uri) == DATA
    assert web.headers[-1]["Authorization"] == "Basic bWU6cEBzcw=="
    web.answer("/a.png", 403)
    with pytest.raises(Unreadable) as caught:
        storage.read_bytes(uri)
    assert "p%40ss" not in str(caught.value)


# ---- listing


def test_a_folder_is_listed_by_its_index_pages_with_the_sizes(web: Web) -> None:
    tar = tar_bytes({"a.png": image_bytes(1)})
    page = '<a href="../">up</a><a href="?C=N;O=D">N</a><a href="a.tar">a</a><a href="b/">b</a><a href="//x/y">x</a>'
    web.put("/data/", page.encode())
    web.put("/data/b/", b'<a href="/data/b/c%20d.tar">c</a><a href="/data/">up</a>')
    web.put("/data/a.tar", tar)
    web.put("/data/b/c d.tar", tar)
    names = [(info.uri.removeprefix(web.url), info.size) for info in storage.list_objects(web.url + "/data")]
    assert names == [("/data/a.tar", len(tar)), ("/data/b/c%20d.tar", len(tar))]
    assert [info.size for info in storage.list_objects(web.url + "/data/", recursive=False)] == [len(tar)]
    assert [item.data for item in items_of(web.url + "/data/*.tar")] == [image_bytes(1)]
    assert list(storage.list_objects(web.url + "/none")) == []


def test_an_index_page_that_cannot_be_had_is_not_an_empty_folder(web: Web) -> None:
    web.put("/data/", b'<a href="a.tar">a</a>')
    web.put("/data/a.tar", tar_bytes({"a.png": image_bytes(1)}))
    web.answer("/data/", 503, times=2)
    assert len(list(storage.list_objects(web.url + "/data"))) == 1
    web.answer("/data/", 403)
    with pytest.raises(Refused, match="access denied"):
        find_shards(web.url + "/data/*.tar")


# ---- other stores of fsspec


def test_a_put_survives_a_busy_server_and_a_check_that_fails_is_not_a_no(web: Web) -> None:
    web.answer("/x", 503, times=2)
    storage.put(web.url + "/x", b"first")
    assert web.files["/x"] == b"first"
    web.answer("/x", 503, times=2)
    assert not storage.put_if_absent(web.url + "/x", b"second", single_writer=True)
    assert web.files["/x"] == b"first"


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """A store whose listings fail now and then, which fsspec's walk would silently skip."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[list[OSError]] = []
    find = fsspec.AbstractFileSystem.find  # as most stores have it

    def ls(self, path: str, detail: bool = True, **options: object) -> Any:
        if path.endswith("/b") and self.failures:
            raise self.failures.pop(0)
        return super().ls(path, detail=detail, **options)


@pytest.fixture
def flaky() -> Iterator[type[Flaky]]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.failures.clear()
    for name in ("a/x", "b/y"):
        storage.put(f"flaky://bucket/{name}", b"1")
    yield Flaky
    importlib.import_module("fsspec.registry")._registry.pop("flaky", None)


def test_a_folder_that_cannot_be_listed_is_not_left_out(flaky: type[Flaky]) -> None:
    flaky.failures[:] = [OSError("who knows"), ConnectionResetError()]
    assert [storage.basename(info.uri) for info in storage.list_objects("flaky://bucket")] == ["x", "y"]
    assert not flaky.failures
    flaky.failures[:] = [PermissionError("no")]
    with pytest.raises(Unreadable, match="access denied"):
        list(storage.list_objects("flaky://bucket"))


# ---- causes behind "file not found" of any library


class _Answer(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def behind(cause: Exception) -> Exception:
    try:
        raise FileNotFoundError("gs://bucket/x") from cause
    except FileNotFoundError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "expected"),
    [(_Answer(503), Transient), (_Answer(429), Transient), (TimeoutError(), Transient), (KeyError("x"), Unreadable),
     (ConnectionResetError(), Transient), (RuntimeError("who knows"), Transient), (_Answer(404), Unreadable),
     (socket.gaierror(socket.EAI_NONAME, "unknown"), Transient), (_Answer(403), Unreadable)],
)  # fmt: skip
def test_what_is_behind_file_not_found_decides(cause: Exception, expected: type[Exception]) -> None:
    assert type(causes.explain("gs://bucket/x", behind(cause))) is expected

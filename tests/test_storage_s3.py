"""labeler.storage on a real S3 server over HTTP, and on connections that break."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import PAGE, Proxy, S3Server

from labeler import storage
from labeler.errors import InputChanged, Refused, StorageError
from labeler.storage import retries
from labeler.storage.failures import Unreadable

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


def path_of(uri: str) -> str:
    return uri.removeprefix("s3:/")


def test_an_empty_bucket_lists_as_empty(bucket: str) -> None:
    assert list(storage.list_objects(bucket)) == []
    assert list(storage.list_objects(bucket + "/no/such/folder")) == []
    assert storage.head(bucket + "/x") is None
    assert storage.head(bucket) is None


def test_listing_is_recursive_sorted_and_by_folder(bucket: str) -> None:
    for key in ("labels/b", "labels/a/1", "labels-old/x", "labels/a b+c?d.txt", "labels/placeholder/"):
        storage.put(f"{bucket}/{key}", b"1")
    found = [info.uri.removeprefix(bucket) for info in storage.list_objects(bucket + "/labels")]
    assert found == ["/labels/a b+c?d.txt", "/labels/a/1", "/labels/b"]
    flat = [info.uri.removeprefix(bucket) for info in storage.list_objects(bucket + "/labels/", recursive=False)]
    assert flat == ["/labels/a b+c?d.txt", "/labels/b"]
    assert storage.read_bytes(bucket + "/labels/a b+c?d.txt") == b"1"


def test_head_read_delete(bucket: str) -> None:
    uri = bucket + "/x"
    storage.put(uri, b"0123456789")
    assert storage.head(uri) == next(iter(storage.list_objects(bucket)))
    assert storage.read_bytes(uri, start=3, length=4) == b"3456"
    assert storage.read_bytes(uri, start=8) == b"89"
    assert storage.read_bytes(uri, start=10) == b""
    with pytest.raises(InputChanged, match="10 bytes where at least 12"):
        storage.read_bytes(uri, start=8, length=4)
    with pytest.raises(InputChanged, match="ends before byte 11"):
        storage.read_bytes(uri, start=11, length=1)
    storage.delete(uri)
    storage.delete(uri)
    assert storage.head(uri) is None


def test_an_empty_object_reads_as_empty(bucket: str) -> None:
    storage.put(bucket + "/x", b"")
    assert storage.read_bytes(bucket + "/x") == b""
    with storage.open_stream(bucket + "/x") as stream:
        assert (stream.read(1), stream.size) == (b"", 0)


def test_put_if_absent_is_conditional_on_the_server(bucket: str) -> None:
    uri = bucket + "/labels/000000/000001.parquet"
    assert storage.put_if_absent(uri, b"first")
    assert not storage.put_if_absent(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    storage.put(uri, b"third")
    assert storage.read_bytes(uri) == b"third"


def test_the_preflight_passes_and_leaves_nothing(bucket: str) -> None:
    storage.check_put_if_absent(bucket + "/run", single_writer=False)
    assert list(storage.list_objects(bucket)) == []


def test_a_big_file_goes_up_in_parts(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 65
    (tmp_path / "big").write_bytes(data)
    storage.put_file(bucket + "/big", tmp_path / "big")
    assert storage.read_bytes(bucket + "/big", start=(64 << 20) - 5, length=10) == data[(64 << 20) - 5 :][:10]
    parts = [path for method, path, _ in s3_server.requests() if method == "PUT" and path == path_of(bucket + "/big")]
    assert len(parts) == 2


def test_a_replaced_object_is_input_changed(bucket: str) -> None:
    uri = bucket + "/x"
    storage.put(uri, b"old!")
    etag = next(iter(storage.list_objects(bucket))).etag
    storage.put(uri, b"new!")
    with pytest.raises(InputChanged, match="x changed: its ETag is no longer"):
        storage.read_bytes(uri, etag=etag)


def test_an_object_replaced_in_the_middle_of_a_stream_is_input_changed(bucket: str) -> None:
    uri = bucket + "/x"
    storage.put(uri, b"a" * (4 << 20))
    with storage.open_stream(uri) as stream:
        stream.read(10)
        storage.put(uri, b"b" * (4 << 20))
        stream.skip(3 << 20)
        with pytest.raises(InputChanged, match="x changed"):
            stream.read(10)


# ---- permanent failures: one line


def test_a_missing_bucket_is_one_line(bucket: str) -> None:
    for call in (lambda u: list(storage.list_objects(u)), storage.read_bytes, lambda u: storage.put(u, b"")):
        with pytest.raises(StorageError, match="bucket no-such-bucket-here does not exist; check its name") as caught:
            call("s3://no-such-bucket-here/x")
        assert "\n" not in str(caught.value)
    with pytest.raises(Refused, match=r"output cannot be used: .*does not exist"):
        storage.check_put_if_absent("s3://no-such-bucket-here/run", single_writer=False)


def test_a_missing_object_is_unreadable(bucket: str) -> None:
    with pytest.raises(Unreadable, match="/gone: no such object") as caught:
        storage.read_bytes(bucket + "/gone")
    assert caught.value.reason == "missing object"


def test_no_credentials_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no usable AWS credentials .* set AWS_ACCESS_KEY_ID"):
        storage.read_bytes(bucket + "/x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match=r"no usable AWS credentials .*nobody"):
        list(storage.list_objects(bucket))


@pytest.mark.parametrize(
    ("code", "message"),
    [("AccessDenied", "access denied"), ("InvalidAccessKeyId", "credentials are refused"),
     ("InvalidToken", "credentials are refused"), ("RequestTimeTooSkewed", "storage answered RequestTimeTooSkewed")],
)  # fmt: skip
def test_a_403_says_what_to_do(bucket: str, proxy: Proxy, code: str, message: str) -> None:
    proxy.answers = [("GET", 403, code)]
    with pytest.raises(StorageError, match=message):
        storage.read_bytes(bucket + "/x")


def test_an_endpoint_that_does_not_answer_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=2, first_s=0.001))
    with pytest.raises(StorageError, match=r"storage failed 2 times in a row .*127.0.0.1:9"):
        storage.read_bytes(bucket + "/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(StorageError, match="check AWS_ENDPOINT_URL"):
        storage.read_bytes(bucket + "/x")


def test_an_address_without_a_key_is_one_line(bucket: str) -> None:
    with pytest.raises(StorageError, match="names no object; write s3://bucket/key"):
        storage.read_bytes(bucket)


# ---- passing failures: not seen


def test_a_stream_cut_in_the_middle_still_gives_the_exact_bytes(bucket: str, proxy: Proxy) -> None:
    data = os.urandom(5_000_000)
    storage.put(bucket + "/x", data)
    proxy.cut_after, proxy.cuts = 1_200_000, 3
    before = storage.traffic().retries
    with storage.open_stream(bucket + "/x", size=len(data)) as stream:
        got = b"".join(iter(lambda: stream.read(700_001), b""))
    assert got == data
    assert storage.traffic().retries == before + 3
    assert len(proxy.ranges) == 4, "one request, and one more for each cut"
    starts = [int(header.split("=")[1].split("-")[0]) for _, header in proxy.ranges[1:] if header]
    assert starts == sorted(set(starts)), "each resumes further along"
    assert len(starts) == 3


def test_a_ranged_read_cut_in_the_middle_still_gives_the_exact_bytes(bucket: str, proxy: Proxy) -> None:
    data = os.urandom(3_000_000)
    storage.put(bucket + "/x", data)
    proxy.cut_after, proxy.cuts = 1_100_000, 2
    assert storage.read_bytes(bucket + "/x", start=1000, length=2_500_000) == data[1000:2_501_000]
    assert proxy.cuts == 0


def test_throttling_and_server_errors_are_retried(bucket: str, proxy: Proxy) -> None:
    storage.put(bucket + "/x", b"data")
    proxy.answers = [("GET", 503, "SlowDown")] * 3
    before = storage.traffic().retries
    assert storage.read_bytes(bucket + "/x") == b"data"
    assert storage.traffic().retries == before + 1
    proxy.answers = [("GET", 500, "InternalError")] * 3  # boto3 gives up, labeler does not
    assert [info.size for info in storage.list_objects(bucket)] == [4]
    assert proxy.answers == []


def test_a_conflict_is_tried_again_and_a_lost_race_is_success(bucket: str, proxy: Proxy) -> None:
    proxy.answers = [("PUT", 409, "ConditionalRequestConflict")] * 2
    assert storage.put_if_absent(bucket + "/x", b"mine")
    proxy.answers = [("PUT", 409, "ConditionalRequestConflict")]
    assert not storage.put_if_absent(bucket + "/x", b"late")
    assert storage.read_bytes(bucket + "/x") == b"mine"


def test_storage_without_conditional_writes_needs_the_promise(bucket: str, proxy: Proxy) -> None:
    proxy.is_conditional = False
    with pytest.raises(Refused, match=r"no put-if-absent \(If-None-Match\): .*NotImplemented.*single_writer=true"):
        storage.check_put_if_absent(bucket + "/run", single_writer=False)
    assert list(storage.list_objects(bucket)) == []
    assert storage.put_if_absent(bucket + "/x", b"plain", single_writer=True)
    assert storage.read_bytes(bucket + "/x") == b"plain"


def test_storage_that_refuses_plain_writes_too_is_not_told_that_it_lacks_put_if_absent(
    bucket: str, proxy: Proxy
) -> None:
    for single_writer in (False, True):
        proxy.answers = [("PUT", 501, "NotImplemented")] * 2
        with pytest.raises(Refused, match=r"storage lacks what this request needs: .*\(HTTP 501\)") as caught:
            storage.check_put_if_absent(bucket + "/run", single_writer=single_writer)
        assert "put-if-absent" not in str(caught.value)
        assert proxy.answers == []


def test_a_long_skip_is_not_downloaded(bucket: str, proxy: Proxy) -> None:
    data = os.urandom(12 << 20)
    storage.put(bucket + "/x", data)
    before = storage.traffic().bytes_read
    with storage.open_stream(bucket + "/x", size=len(data)) as stream:
        assert stream.read(1000) == data[:1000]
        stream.skip(10 << 20)
        assert stream.read(1000) == data[1000 + (10 << 20) :][:1000]
    assert storage.traffic().bytes_read - before <= 2 * (128 << 10)
    assert [header for _, header in proxy.ranges] == [None, f"bytes={1000 + (10 << 20)}-"]


def test_listing_goes_on_after_the_last_page_that_came(bucket: str, proxy: Proxy) -> None:
    for number in range(2 * PAGE + 5):
        storage.put(f"{bucket}/{number:03d}", b"")
    listed = storage.list_objects(bucket)
    names = [storage.basename(next(listed).uri)]
    proxy.answers = [("GET", 500, "InternalError")] * 3  # boto3 gives up in the middle of its paging
    before = storage.traffic().retries
    names += [storage.basename(info.uri) for info in listed]
    assert names == [f"{number:03d}" for number in range(2 * PAGE + 5)]
    assert storage.traffic().retries == before + 1


# ---- processes


def test_another_process_sees_the_same_objects(bucket: str, s3_server: S3Server) -> None:
    program = f"from labeler import storage; print(storage.put_if_absent('{bucket}/x', b'first'))"
    for expected in ("True", "False"):
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
            env={**os.environ, **s3_server.env},
        )  # fmt: skip
        assert result.stdout.strip() == expected


def test_a_forked_process_makes_its_own_client(bucket: str) -> None:
    storage.put(bucket + "/x", b"parent")
    child = os.fork()
    if child == 0:
        try:
            storage.put(bucket + "/y", storage.read_bytes(bucket + "/x") + b"+child")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert storage.read_bytes(bucket + "/y") == b"parent+child"


def test_importing_storage_loads_no_backend() -> None:
    program = "import labeler.storage, sys; print(sorted({'boto3', 'fsspec', 'pyarrow'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""An S3 server that fails a share of its requests in every way: nothing is missing, and every byte is right."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config

from labeler import storage
from labeler.digests import digest_of
from labeler.errors import InputChanged, StorageError
from labeler.images import decode
from labeler.shards import Unit, find_shards, read_units
from labeler.storage import retries, s3_clients
from tests.inputs import image_bytes, tar_bytes
from tests.s3_faults import OF_A_GET, Faults
from tests.s3_server import Proxy, S3Server

READ_TIMEOUT_S = 1.5  # now and then a busy machine takes longer to answer, but never eight times in a row
OLD_KEYS = "[default]\naws_access_key_id=OLDKEY\naws_secret_access_key=old\naws_session_token=old\n"


@pytest.fixture(autouse=True)
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same client with a read timeout that a test can wait for."""
    monkeypatch.setattr(s3_clients, "SETTINGS", s3_clients.SETTINGS.merge(Config(read_timeout=READ_TIMEOUT_S)))
    s3_clients.clients.clear()
    yield
    s3_clients.clients.clear()


@pytest.fixture
def patient_retries(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(first_s=0.01, longest_s=0.05))


def fill(bucket: str, *, files: int, tars: int, rows: int) -> dict[str, str]:
    """Put images as files, in tars and in a Parquet file; the digest of each one's pixels by its number."""
    encoded = [image_bytes(seed, width=24, height=16) for seed in range(files + 40 * tars + rows)]
    source = iter(enumerate(encoded))
    with ThreadPoolExecutor(8) as pool:
        for number, data in (next(source) for _ in range(files)):
            pool.submit(storage.put, f"{bucket}/files/{number:05d}.png", data)
    for tar in range(tars):
        members = {f"{number:05d}.png": data for number, data in (next(source) for _ in range(40))}
        storage.put(f"{bucket}/tars/{tar:05d}.tar", tar_bytes(members))
    table = pa.table({"image": [{"bytes": data, "path": f"{number:05d}.png"} for number, data in source]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=8)
    storage.put(f"{bucket}/rows/0.parquet", buffer.getvalue())
    return {f"{number:05d}.png": pixels_digest(data) for number, data in enumerate(encoded)}


def pixels_digest(data: bytes | None) -> str:
    assert data is not None
    return digest_of(decode(data).pixels.tobytes())


def read_all(bucket: str) -> list[tuple[str, str]]:
    """(key, digest of the pixels) of every item of every shard; an item with an error stands as that error."""
    found = []
    for folder in ("files", "tars", "rows"):
        for shard in find_shards(f"{bucket}/{folder}"):
            for unit in read_units(shard, max_images=16):
                if isinstance(unit, Unit):
                    found += [(item.key, item.error or pixels_digest(item.data)) for item in unit.items]
    return found


def check_faults(bucket: str, proxy: Proxy, expected: dict[str, str], *, rate: float, at_least: int) -> Faults:
    proxy.faults = faults = Faults(rate)
    found = read_all(bucket)
    proxy.faults = None
    assert len(found) == len(expected), "every image is there, once"
    assert dict(found) == expected, "and its pixels are right"
    assert all(faults.drawn[kind] >= at_least for kind in OF_A_GET), faults.drawn
    return faults


def test_not_one_image_is_missing_when_a_fifth_of_all_requests_fails(
    bucket: str, proxy: Proxy, patient_retries: None
) -> None:
    expected = fill(bucket, files=120, tars=4, rows=40)
    check_faults(bucket, proxy, expected, rate=0.2, at_least=1)


@pytest.mark.slow
def test_not_one_of_five_thousand_images_is_missing_when_5_percent_of_requests_fail(
    bucket: str, proxy: Proxy, patient_retries: None
) -> None:
    expected = fill(bucket, files=3000, tars=40, rows=400)
    assert len(expected) == 5000
    faults = check_faults(bucket, proxy, expected, rate=0.05, at_least=10)
    print(f"\n{faults.requests} requests, {faults.drawn.total()} failed: {dict(faults.drawn)}")


@pytest.mark.slow
def test_writes_survive_the_same_faults_whole_and_once(bucket: str, proxy: Proxy, patient_retries: None) -> None:
    proxy.faults = Faults(0.3)
    uris = [f"{bucket}/labels/{number:06d}" for number in range(60)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda uri: storage.put_if_absent(uri, uri.encode() * 500), uris))
        again = list(pool.map(lambda uri: storage.put_if_absent(uri, b"another writer's"), uris))
    assert proxy.faults.drawn["lost answer"] >= 1, "one was written and its writer did not hear of it"
    listed = [info.uri for info in storage.list_objects(f"{bucket}/labels")]
    proxy.faults = None
    assert again == [False] * 60
    assert listed == uris
    assert all(storage.read_bytes(uri) == uri.encode() * 500 for uri in uris)


# ---- ETags


def test_an_answer_with_a_wrong_etag_is_never_used(bucket: str, proxy: Proxy) -> None:
    storage.put(bucket + "/x", b"right")
    etag = next(iter(storage.list_objects(bucket))).etag
    proxy.faults = Faults(1.0)
    proxy.faults.draw = lambda method: "wrong ETag"  # type: ignore[method-assign]
    with pytest.raises(InputChanged, match=f"x changed: its ETag was {etag}, now it is"):
        storage.read_bytes(bucket + "/x", etag=etag)
    proxy.ranges.clear()
    proxy.faults = Faults(1.0)
    twice = iter(["wrong ETag", "wrong ETag"])
    proxy.faults.draw = lambda method: next(twice, None)  # type: ignore[method-assign]
    assert storage.read_bytes(bucket + "/x", etag=etag) == b"right"
    assert len(proxy.ranges) >= 3, "a change is believed at the third look, not before"  # a reset adds one more


def test_an_object_that_shrank_is_input_changed_and_not_a_short_read(bucket: str, proxy: Proxy) -> None:
    storage.put(bucket + "/x.jpg", b"0123456789")
    (shard,) = find_shards(bucket)
    (planned,) = storage.list_objects(bucket)
    storage.put(bucket + "/x.jpg", b"01234")
    with (
        pytest.raises(InputChanged, match="changed"),
        storage.open_stream(planned.uri, size=planned.size, etag=planned.etag) as stream,
    ):
        stream.read(stream.size)
    (unit, _) = read_units(shard)
    assert isinstance(unit, Unit)
    assert [(item.data, item.error) for item in unit.items] == [(None, "changed since it was planned")]


# ---- credentials


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, bucket: str, proxy: Proxy, tmp_path: Path) -> Path:
    """A credentials file, as a login tool renews it, instead of the environment's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr(s3_clients, "YOUNG_S", 0.0)
    (tmp_path / "credentials").write_text(OLD_KEYS)
    return tmp_path / "credentials"


def test_credentials_renewed_in_their_file_are_taken_up_in_the_middle_of_a_shard(
    bucket: str, proxy: Proxy, keys: Path
) -> None:
    expected = fill(bucket, files=40, tars=0, rows=1)
    (shard,) = find_shards(bucket + "/files")
    units = read_units(shard, max_images=10)
    found = [next(units)]
    proxy.key_id = "NEWKEY"  # from here on the old ones have expired
    keys.write_text(OLD_KEYS.replace("OLDKEY", "NEWKEY"))
    found += list(units)
    items = [item for unit in found if isinstance(unit, Unit) for item in unit.items]
    assert {item.key: pixels_digest(item.data) for item in items} == {
        f"{n:05d}.png": expected[f"{n:05d}.png"] for n in range(40)
    }
    assert storage.head(f"{bucket}/files/00000.png") is not None


def test_credentials_that_nobody_renews_end_in_one_line_and_never_in_rows(
    bucket: str, proxy: Proxy, keys: Path
) -> None:
    fill(bucket, files=3, tars=0, rows=1)
    (shard,) = find_shards(bucket + "/files")
    proxy.key_id = "NEWKEY"
    with pytest.raises(StorageError, match=r"4 times in a row \(the AWS credentials have expired.*renew the AWS cred"):
        list(read_units(shard))
    with pytest.raises(StorageError, match=r"have expired: 400 \(HTTP 400\)"):
        storage.head(f"{bucket}/files/00000.png")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What this process says of failures that a person can end."""
    lines: list[str] = []
    retries.on_trouble(lines.append)
    yield lines
    retries.on_trouble(None)


def test_expired_credentials_are_named_while_they_are_tried_again(
    bucket: str, proxy: Proxy, keys: Path, told: list[str]
) -> None:
    storage.put(f"{bucket}/x", b"x")
    proxy.answers = [("GET", 503, "SlowDown")] * 3  # passes without anybody
    assert storage.read_bytes(f"{bucket}/x") == b"x"
    proxy.answers = [("GET", 400, "ExpiredToken")] * 2  # renewed in time
    assert storage.read_bytes(f"{bucket}/x") == b"x"
    assert told == []
    proxy.answers = [("GET", 400, "ExpiredToken")] * 3
    assert storage.read_bytes(f"{bucket}/x") == b"x", "it was read in the end"
    assert told == [
        "the AWS credentials have expired: ExpiredToken (HTTP 400); "
        "renew the AWS credentials (their file, or the machine's role)"
    ]


def test_a_listener_that_fails_does_not_fail_the_read(bucket: str, proxy: Proxy, keys: Path) -> None:
    storage.put(f"{bucket}/x", b"x")
    retries.on_trouble(lambda what: 1 / 0)
    proxy.answers = [("GET", 400, "ExpiredToken")] * 3
    try:
        assert storage.read_bytes(f"{bucket}/x") == b"x"
    finally:
        retries.on_trouble(None)


# ---- ranges


def test_a_server_that_ignores_ranges_is_named_and_its_bytes_are_not_used(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=2, first_s=0.001))
    storage.put(bucket + "/x", b"0123456789")
    client = s3_clients.client()
    client.meta.events.register("before-sign.s3.GetObject", lambda request, **_: request.headers.__delitem__("Range"))
    with pytest.raises(StorageError, match="asked for bytes from 4 on, storage sent all"):
        storage.read_bytes(bucket + "/x", start=4, length=2)
    s3_clients.clients.clear()
    assert storage.read_bytes(bucket + "/x", start=4, length=2) == b"45"

"""Reading groups of image files: in order, many at a time, one row for each."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Proxy, S3Server

from labeler import storage
from labeler.ahead import Fetch, in_order
from labeler.errors import StorageError
from labeler.shards import Member, Shard, ShardEnd, Unit, count_images, find_shards, read_units
from labeler.shards.units import Placed
from labeler.storage import retries
from tests.waiting import PATIENCE_S, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(10):
        path = tmp_path / f"in/{number % 2}/{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (100 + number))
    return tmp_path / "in"


def read(shard: Shard, **options: object) -> tuple[list[Unit], ShardEnd]:
    *units, end = read_units(shard, **options)  # type: ignore[arg-type]
    assert isinstance(end, ShardEnd)
    return [unit for unit in units if isinstance(unit, Unit)], end


def test_a_group_of_nothing_is_only_an_end() -> None:
    assert list(read_units(Shard("000000", "x", 0, None, "images", members=()))) == [ShardEnd("000000", 0, 0)]


def test_a_group_without_its_members_is_a_mistake_of_the_caller() -> None:
    shard = Shard("000000", "x", 0, None, "images")
    assert count_images(shard) is None
    with pytest.raises(ValueError, match="load its members first"):
        list(read_units(shard))


def test_every_file_is_an_item_in_order_and_addressable(folder: Path) -> None:
    (shard,) = find_shards(str(folder))
    assert (shard.uri, shard.size, count_images(shard)) == (str(folder), sum(range(100, 110)), 10)
    (unit,), end = read(shard, keep=("txt",))
    assert end == ShardEnd("000000", 1, 10)
    assert [item.key for item in unit.items] == [f"{n % 2}/{n:03d}.jpg" for n in (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)]
    for item in unit.items:
        assert item.offset is not None
        assert item.kept == {"txt": None}
        assert storage.read_bytes(item.uri, start=item.offset, length=item.length) == item.data
        assert item.data == Path(item.uri).read_bytes()


def test_units_follow_the_frozen_sizes_and_not_what_is_skipped(folder: Path) -> None:
    (shard,) = find_shards(str(folder))
    whole, end = read(shard, max_images=4, max_bytes=310)
    assert [len(unit.items) for unit in whole] == [3, 2, 3, 2], "sizes 100 102 104 | 106 108 | 101 103 105 | 107 109"
    assert [len(unit.items) for unit in read(shard, max_images=4)[0]] == [4, 4, 2]
    for skipped in ({0}, {1, 3}, set(range(4))):
        rest = read(shard, max_images=4, max_bytes=310, skip=skipped.__contains__)
        assert rest == ([unit for unit in whole if unit.unit not in skipped], end)


def test_files_of_skipped_units_are_not_asked_for(bucket: str, s3_server: S3Server) -> None:
    for number in range(6):
        storage.put(f"{bucket}/in/{number}.jpg", bytes([number]))
    (shard,) = find_shards(bucket + "/in")
    name = bucket.removeprefix("s3://")
    units, end = read(shard, max_images=2, skip={0, 2}.__contains__)
    assert ([unit.unit for unit in units], end.units) == ([1], 3)
    assert [s3_server.gets(f"{name}/in/{number}.jpg") for number in range(6)] == [0, 0, 1, 1, 0, 0]


def test_a_vanished_file_is_a_row_and_the_others_go_on(folder: Path) -> None:
    (shard,) = find_shards(str(folder))
    (folder / "0/004.jpg").unlink()
    (unit,), end = read(shard)
    errors = {item.key: item.error for item in unit.items if item.error}
    assert (errors, end.images) == ({"0/004.jpg": "missing object"}, 10)


@pytest.mark.parametrize("how", ["renamed", "emptied", "denied"])
def test_an_input_that_is_gone_is_an_error_and_never_rows(tmp_path: Path, bucket: str, proxy: Proxy, how: str) -> None:
    names = [f"{i:02d}.png" for i in range(40)]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"x")
        storage.put(f"{bucket}/in/{name}", b"x")
    (shard,) = find_shards(f"{bucket}/in" if how == "denied" else str(tmp_path / "in"))
    if how == "renamed":
        (tmp_path / "in").rename(tmp_path / "away")
    elif how == "emptied":
        for name in names:
            (tmp_path / "in" / name).unlink()
    else:
        proxy.answers = [(method, 403, "AccessDenied") for method in ("GET", "HEAD")] * 1000
    with pytest.raises(StorageError, match=r"seems to be gone|is not there any more"):
        next(read_units(shard, max_images=4))


def test_many_vanished_files_are_rows_while_others_are_there(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i:02d}.png").write_bytes(b"x")
    (shard,) = find_shards(str(tmp_path))
    for i in range(30):
        (tmp_path / f"{i:02d}.png").unlink()
    items = [item for read in read_units(shard) if isinstance(read, Unit) for item in read.items]
    assert [item.error for item in items] == ["missing object"] * 30 + [None] * 30


def test_a_vanished_or_forbidden_object_is_a_row(bucket: str, proxy: Proxy) -> None:
    for number in range(3):
        storage.put(f"{bucket}/{number}.jpg", b"x")
    (shard,) = find_shards(bucket)
    storage.delete(bucket + "/1.jpg")
    ((unit,), _) = read(shard)
    assert [item.error for item in unit.items] == [None, "missing object", None]
    proxy.answers = [("GET", 403, "AccessDenied")]
    ((unit,), _) = read(shard)
    assert sorted(str(item.error) for item in unit.items if item.error) in (
        ["access denied", "missing object"],
        ["access denied"],
    )


def test_refused_credentials_are_not_recorded_as_rows(bucket: str, proxy: Proxy) -> None:
    storage.put(bucket + "/1.jpg", b"x")
    (shard,) = find_shards(bucket)
    for code, said in (("InvalidAccessKeyId", "credentials are refused"), ("RequestTimeTooSkewed", "storage answered")):
        proxy.answers = [("GET", 403, code)]
        with pytest.raises(StorageError, match=said):
            list(read_units(shard))


def test_storage_that_fails_for_a_while_is_not_recorded_as_rows(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=2, first_s=0.001))
    storage.put(bucket + "/1.jpg", b"x")
    (shard,) = find_shards(bucket)
    proxy.answers = [("GET", 500, "InternalError")] * 6
    with pytest.raises(StorageError, match="storage failed 2 times in a row"):
        list(read_units(shard))


def test_a_changed_file_is_a_row_that_says_so_and_its_neighbours_are_read(folder: Path) -> None:
    """It has no bytes: those that are there are not what was planned. Nothing else in its group is in question."""
    (shard,) = find_shards(str(folder))
    os.utime(folder / "1/003.jpg", ns=(1, 1))
    items = [item for unit in read_units(shard) if isinstance(unit, Unit) for item in unit.items]
    assert {item.key: item.error for item in items if item.error} == {"1/003.jpg": "changed since it was planned"}
    assert all((item.data is None) == (item.key == "1/003.jpg") for item in items)


def test_a_changed_object_is_a_row_that_says_so(bucket: str) -> None:
    storage.put(bucket + "/1.jpg", b"old")
    (shard,) = find_shards(bucket)
    storage.put(bucket + "/1.jpg", b"new")
    (unit, _) = read_units(shard)
    assert isinstance(unit, Unit)
    assert [(item.data, item.error) for item in unit.items] == [(None, "changed since it was planned")]


def test_a_huge_file_is_a_row_and_is_not_read(folder: Path) -> None:
    (shard,) = find_shards(str(folder))
    before = storage.traffic().bytes_read
    (unit,), _ = read(shard, max_image_bytes=105)
    assert [item.error for item in unit.items if item.error] == [
        f"member of {size} bytes is larger than 105" for size in (106, 108, 107, 109)
    ]
    assert storage.traffic().bytes_read - before == sum(range(100, 106))


def test_members_read_back_from_a_plan_may_lack_size_and_etag(folder: Path) -> None:
    member = Member("a", str(folder / "0/000.jpg"), None, None)
    (unit,), _ = read(Shard("000000", str(folder), None, None, "images", members=(member,)))
    assert (unit.items[0].data, unit.items[0].length) == (bytes(100), 100)


# ---- many at a time


def test_jobs_run_at_the_same_time_and_come_in_order() -> None:
    running, peak = 0, 0
    lock = threading.Lock()
    together = threading.Event()

    def job(number: int) -> Placed:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
            if running == 4:
                together.set()
        together.wait(PATIENCE_S)  # nobody continues before four are there
        time.sleep(0.02 if number % 3 else 0.05)  # they end in another order
        with lock:
            running -= 1
        return Placed(number, None)

    jobs = [Fetch(1, lambda n=n: job(n)) if n % 5 else Placed(n, None) for n in range(40)]  # type: ignore[misc]
    assert [placed.unit for placed in in_order(jobs, in_flight=8)] == list(range(40))
    assert 4 <= peak <= 8


def test_what_waits_in_memory_is_bounded() -> None:
    started: list[int] = []

    def jobs() -> Iterator[Fetch]:
        for n in range(20):
            yield Fetch(40, lambda n=n: (started.append(n), Placed(n, None))[1])  # type: ignore[misc]

    reading = in_order(jobs(), in_flight=32, ahead_bytes=100)
    assert next(reading).unit == 0
    wait_until(lambda: len(started) == 2)
    time.sleep(0.1)  # for a third to begin, which must not
    assert len(started) == 2, "two of 40 bytes fit into 100"
    assert [placed.unit for placed in reading] == list(range(1, 20))


def test_images_that_need_no_job_do_not_wait_in_memory() -> None:
    asked: list[int] = []

    def images() -> Iterator[Placed]:
        for n in range(20):
            asked.append(n)
            yield Placed(n, None)

    reading = in_order(images())
    assert [next(reading).unit, next(reading).unit] == [0, 1]
    assert asked == [0, 1]

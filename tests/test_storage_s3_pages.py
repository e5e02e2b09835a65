"""Listings of hundreds of thousands of keys: pages parsed as botocore parses them, several listings at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import botocore.session
import pytest
from botocore.parsers import create_parser
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slow_s3 import PAGE, Stand
from labeler import storage
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import read_plan
from labeler.runs.create import NewRun, create_run
from labeler.runs.plan import PlannedShard, with_members
from labeler.runs.progress import _beginnings
from labeler.shards import Member, Shard
from labeler.storage.s3_pages import parse_page, take_contents
from labeler.vocabulary import Vocabulary

ODD = ["a b.jpg", "\u00e9.jpg", "e\u0301.jpg", "a+b%20c", "<&>'\"", "\u65e5/\u672c.tar", "~"]


@pytest.fixture
def stand(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with Stand(list_s=0.0) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def page_of(keys: int) -> bytes:
    contents = "".join(
        f"<Contents><Key>run/labels/{key:06d}/000000.parquet</Key><LastModified>2026-01-01T00:00:{key % 60:02d}.000Z"
        f"</LastModified><ETag>&quot;{key:032x}&quot;</ETag><Size>{key}</Size><StorageClass>STANDARD</StorageClass>"
        f"<Owner><ID>{key}</ID></Owner><ChecksumAlgorithm>CRC32</ChecksumAlgorithm></Contents>"
        for key in range(keys)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Name>b</Name><Prefix>run/</Prefix><KeyCount>2</KeyCount><IsTruncated>true</IsTruncated>"
        f"<NextContinuationToken>a&amp;b</NextContinuationToken>{contents}"
        "<CommonPrefixes><Prefix>run/x/</Prefix></CommonPrefixes></ListBucketResult>"
    ).encode()


def by_botocore(body: bytes) -> dict[str, object]:
    shape = botocore.session.get_session().get_service_model("s3").operation_model("ListObjectsV2").output_shape
    parsed: dict[str, object] = create_parser("rest-xml").parse(
        {"status_code": 200, "headers": {}, "body": body}, shape
    )
    return parsed


def test_a_page_is_parsed_as_botocore_does_in_a_fraction_of_its_time() -> None:
    body, taken = page_of(PAGE), dict[str, object]()
    response = {"status_code": 200, "headers": {}, "body": body}
    take_contents(response, taken)
    theirs = by_botocore(body)
    assert {**by_botocore(response["body"]), **taken} == {  # type: ignore[arg-type]
        name: value
        if name != "Contents"
        else [{k: v for k, v in each.items() if k in ("Key", "Size", "ETag", "LastModified")} for each in value]  # type: ignore[attr-defined]
        for name, value in theirs.items()
    }
    ours_s = least_seconds(lambda: take_contents({"status_code": 200, "headers": {}, "body": body}, {}))
    assert ours_s < least_seconds(lambda: by_botocore(body)) / 3


def least_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU seconds of three runs: a garbage collection of everything tests left may fall into one."""
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        work()
        seconds.append(time.thread_time() - start)
    return min(seconds)


@pytest.mark.parametrize("body", [b"", b"<a", b"<html><Contents><Size>x</Size></Contents></html>"])
def test_what_is_no_page_is_left_to_botocore(body: bytes) -> None:
    response, taken = {"status_code": 200, "body": body}, dict[str, object]()
    take_contents(response, taken)
    assert (response["body"], taken) == (body, {})
    failed = {"status_code": 503, "body": page_of(1)}
    take_contents(failed, taken)
    assert (failed["body"], taken) == (page_of(1), {})


def test_a_time_without_a_zone_is_one_in_utc() -> None:
    body = page_of(1).replace(b"2026-01-01T00:00:00.000Z", b"Thu, 01 Jan 2026 00:00:00 GMT")
    assert parse_page(body)[1][0]["LastModified"].timestamp() == 1_767_225_600


def test_odd_keys_come_back_as_they_were_put(bucket: str) -> None:
    for key in ODD:
        storage.put(f"{bucket}/in/{key}", b"12")
    infos = {info.uri.removeprefix(f"{bucket}/in/"): info for info in storage.list_objects(f"{bucket}/in")}
    assert sorted(infos) == sorted(ODD)
    assert infos == {key: storage.head(f"{bucket}/in/{key}") for key in ODD}


@given(shards=st.integers(1, 2_500_000), shard=st.integers(0, 9_999_999))
def test_every_id_of_a_shard_has_exactly_one_of_the_beginnings(shards: int, shard: int) -> None:
    begun = _beginnings(shards)
    assert [f"{shard:06d}/000000.parquet".startswith(each) for each in begun].count(True) == 1
    assert len(begun) < 1000


def test_listings_at_once_find_what_one_listing_finds(stand: Stand) -> None:
    keys = [f"b/run/labels/{shard:06d}/{unit:06d}.parquet" for shard in range(500) for unit in range(7)]
    stand.objects.fill([*keys, "b/run/labels/999999/000000.parquet", "b/run/labels2/x", "b/run/labels"], b"")
    one = list(storage.list_objects("s3://b/run/labels"))
    assert sorted(storage.list_split("s3://b/run/labels", _beginnings(500)), key=lambda info: info.uri) == one
    assert len(one) == len(keys) + 1


def test_a_folder_that_has_no_prefixes_is_listed_whole(tmp_path: object) -> None:
    storage.put(f"{tmp_path}/a/000001/x", b"")
    assert [storage.basename(info.uri) for info in storage.list_split(f"{tmp_path}/a", _beginnings(500))] == ["x"]


def test_groups_of_image_files_are_written_many_at_a_time(stand: Stand) -> None:
    stand.put_s = 0.05
    shards = [
        Shard(f"{i:06d}", "s3://b/in", 1, None, "images", members=(Member(f"{i}.jpg", f"s3://b/in/{i}.jpg", 1, "e"),))
        for i in range(40)
    ]
    vocabulary = Vocabulary.load([{"id": 1, "name": "cat"}])
    plan = [PlannedShard(shard, 1) for shard in shards]
    new = NewRun({"model": "m"}, {"input": {}}, {}, vocabulary, Prompts((), frozenset(), 256), plan)
    run = create_run("s3://b/run", new)
    assert stand.most_puts > 8
    assert [with_members(planned.shard, run.uri).members for planned in read_plan(run)] == [s.members for s in shards]

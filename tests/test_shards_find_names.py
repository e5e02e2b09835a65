"""Finding shards by names that other people gave: names that look like patterns, slashes and dots, web addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_server import Web
from inputs import tar_bytes
from s3_server import Proxy

from labeler import storage
from labeler.errors import Refused
from labeler.shards import Unit, find_shards, read_units
from tests.test_shards_find import keys_of


def folder_on(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if place == "s3":
        bucket: str = request.getfixturevalue("bucket")
        return bucket
    return f"local://{tmp_path}/root" if place == "fsspec" else f"{tmp_path}/root"


@pytest.mark.parametrize("place", ["local", "s3", "fsspec"])
@pytest.mark.parametrize("name", ["set [2023]", "set {a,b}", "set {1..3}", "a*b", "what?"])
def test_a_name_that_is_there_wins_over_the_pattern_it_looks_like(
    place: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = folder_on(place, tmp_path, request)
    for path in (f"{name}/x.jpg", f"{name}/b/y.jpg", f"{name}.jpg", "set 2/z.jpg", "set a/z.jpg", "whats/z.jpg"):
        storage.put(f"{root}/{path}", b"1")
    assert keys_of(find_shards(f"{root}/{name}")) == ["b/y.jpg", "x.jpg"]
    assert keys_of(find_shards(f"{root}/{name}.jpg")) == [f"{name}.jpg"]
    if "{" not in name:  # with braces it is refused here, see below: "set a" and "set 2" are there, too
        assert keys_of(find_shards(f"{root}/{name}/*.jpg"))[-1].endswith("x.jpg")
        assert keys_of(find_shards(f"{root}/{name}/**/y.jpg"))[-1].endswith("b/y.jpg")


@pytest.mark.parametrize("place", ["local", "s3", "fsspec"])
def test_a_folder_with_braces_in_its_name_is_taken_at_its_word_before_a_pattern(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = folder_on(place, tmp_path, request)
    for path in ("b{1,2}/x.jpg", "b{1,2}/y{1,2}/z1.jpg", "c1/x.jpg", "c2/x.jpg", "{a}/x.jpg"):
        storage.put(f"{root}/{path}", b"1")
    assert keys_of(find_shards(f"{root}/b{{1,2}}/*.jpg")) == ["x.jpg"]
    assert keys_of(find_shards(f"{root}/b{{1,2}}/y{{1,2}}/*.jpg")) == ["z1.jpg"]
    assert keys_of(find_shards(f"{root}/b{{1,2}}/y{{1,2}}/z{{1..1}}.jpg")) == ["z1.jpg"]
    assert keys_of(find_shards(f"{root}/c{{1,2}}/*.jpg")) == ["c1/x.jpg", "c2/x.jpg"]
    assert keys_of(find_shards(f"{root}/{{a}}/*.jpg")) == ["x.jpg"], "no list, no range"


@pytest.mark.parametrize("place", ["local", "s3"])
def test_braces_that_may_be_a_folder_s_name_or_others_are_refused_and_each_can_be_written(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = folder_on(place, tmp_path, request)
    for path in ("b{1,2}/x.jpg", "b2/y.jpg"):
        storage.put(f"{root}/{path}", b"1")
    with pytest.raises(Refused, match=r"folder .*/b\{1,2\} or .*/b2, and both are there; write .*/b\[\{\]1,2\}/\*.jpg"):
        find_shards(f"{root}/b{{1,2}}/*.jpg")
    assert keys_of(find_shards(f"{root}/b[{{]1,2}}/*.jpg")) == ["b{1,2}/x.jpg"]
    assert keys_of(find_shards([f"{root}/b2/*.jpg"])) == ["y.jpg"]


def test_patterns_that_are_no_names_stand_for_what_they_always_did(bucket: str) -> None:
    for path in ("a1/x.jpg", "a2/x.jpg", "b1/x.jpg"):
        storage.put(f"{bucket}/in/{path}", b"1")
    assert keys_of(find_shards(f"{bucket}/in/a[12]/*.jpg")) == ["a1/x.jpg", "a2/x.jpg"]
    assert keys_of(find_shards(f"{bucket}/in/{{a2,b1}}")) == ["a2/x.jpg", "b1/x.jpg"]
    assert keys_of(find_shards(f"{bucket}/in/?1/*.jpg")) == ["a1/x.jpg", "b1/x.jpg"]


def test_a_literal_name_that_may_not_be_asked_for_is_no_obstacle(bucket: str, proxy: Proxy) -> None:
    storage.put(f"{bucket}/in/a.tar", tar_bytes({}))
    storage.put(f"{bucket}/in/b.tar", tar_bytes({}))
    proxy.answers = [("HEAD", 403, "AccessDenied")]  # of a key that is not there, to somebody who may not list
    assert len(find_shards(f"{bucket}/in/{{a,b}}.tar")) == 2


def test_keys_that_differ_by_slashes_or_dots_are_images_of_their_own(bucket: str) -> None:
    names = ["/a.jpg", "a.jpg", "./a.jpg", "x/../a.jpg", "x//a.jpg", "x/a.jpg", "//a.jpg"]
    for number, name in enumerate(names):
        storage.put(f"{bucket}/in/{name}", bytes([number + 1]))
    (shard,) = find_shards(f"{bucket}/in")
    assert sorted(member.key for member in shard.members or ()) == sorted(names)
    (unit, _) = read_units(shard)
    assert isinstance(unit, Unit)
    assert {item.key: item.data for item in unit.items} == {name: bytes([i + 1]) for i, name in enumerate(names)}
    assert keys_of(find_shards(f"{bucket}/in//a.jpg")) == ["/a.jpg"]
    assert keys_of(find_shards([f"{bucket}/in//a.jpg", f"{bucket}/in/a.jpg"])) == ["/a.jpg", "a.jpg"]
    assert keys_of(find_shards(f"{bucket}/in//*.jpg")) == ["/a.jpg"]
    assert keys_of(find_shards(f"{bucket}/in/x/")) == ["../a.jpg", "/a.jpg", "a.jpg"]


def test_numbered_names_behind_a_double_slash_are_found(bucket: str) -> None:
    for number in range(12):
        storage.put(f"{bucket}/in//{number:02d}.tar", tar_bytes({}))
    assert len(find_shards(f"{bucket}/in//{{00..11}}.tar")) == 12


# ---- web addresses


def test_a_presigned_address_is_known_by_its_path(web: Web) -> None:
    query = "?X-Amz-Credential=me/x.jpg&X-Amz-Signature=s3cret{1..2}*"
    web.put("/in/a.tar", tar_bytes({"x.png": b"1"}))
    web.put("/in/a.jpg", b"1")
    (shard,) = find_shards(f"{web.url}/in/a.tar{query}")
    assert (shard.format, shard.name) == ("webdataset", "a.tar")
    (unit, _) = read_units(shard)
    assert isinstance(unit, Unit)
    assert [item.data for item in unit.items] == [b"1"]
    assert keys_of(find_shards(f"{web.url}/in/a.jpg{query}")) == ["a.jpg"]
    web.put("/in/download", tar_bytes({"x.png": b"1"}))
    with pytest.raises(Refused, match=r"set input.format") as caught:
        find_shards(f"{web.url}/in/download{query}")
    assert "s3cret" not in str(caught.value)
    assert len(find_shards(f"{web.url}/in/download{query}", format="webdataset")) == 1


def test_addresses_that_differ_by_their_query_alone_are_images_of_their_own(web: Web) -> None:
    web.put("/image.jpg", b"1")
    keys = keys_of(find_shards([f"{web.url}/image.jpg?id=1", f"{web.url}/image.jpg?id=2"]))
    assert keys == ["image.jpg?id=1", "image.jpg?id=2"]


def test_many_numbered_addresses_need_no_index_page(web: Web) -> None:
    for number in range(12):
        web.put(f"/in/{number:02d}.tar", tar_bytes({}))
    assert len(find_shards(f"{web.url}/in/{{00..11}}.tar?sig=a/b")) == 12


def test_an_index_page_is_a_folder(web: Web) -> None:
    web.put("/in/", b'<a href="a.jpg">a</a>')
    web.put("/in", b'<a href="a.jpg">a</a>')
    web.put("/in/a.jpg", b"1")
    assert keys_of(find_shards(f"{web.url}/in/")) == ["a.jpg"]

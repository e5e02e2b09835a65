"""Units of WebDataset tars: where they end, their sidecars, and what is read of those that are skipped."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import tar_bytes
from s3_server import Proxy

from labeler import storage
from labeler.shards import Shard, read_units
from labeler.shards.units import UnitCutter
from tests.shard_parts import items_of, read, shard_of


def test_a_unit_closes_at_its_bounds() -> None:
    cutter = UnitCutter(max_images=3, max_bytes=100)
    placed = [cutter.place(length) for length in (60, 40, 0, 0, 99, 2, 101, 1, 100, 100)]
    assert placed == [0, 0, 0, 1, 1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="room for an image"):
        UnitCutter(0, 1)


def make_shard(path: Path, lengths: list[int]) -> Shard:
    members = {}
    for number, length in enumerate(lengths):
        members[f"{number:03d}.jpg"] = bytes([number % 256]) * length
        members[f"{number:03d}.txt"] = f"caption {number}".encode()
    return shard_of(path, tar_bytes(members))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 511, 512, 513, 3000]), max_size=12),
    max_images=st.integers(1, 5),
    max_bytes=st.sampled_from([1, 512, 1024, 4000]),
    skipped=st.sets(st.integers(0, 12)),
    keep=st.sampled_from([(), ("txt",)]),
)
def test_units_do_not_depend_on_what_is_skipped(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    max_images: int,
    max_bytes: int,
    skipped: set[int],
    keep: tuple[str, ...],
) -> None:
    shard = make_shard(tmp_path_factory.getbasetemp() / "property.tar", lengths)
    limits: dict[str, Any] = {"max_images": max_images, "max_bytes": max_bytes, "keep": keep}
    units, end = read(shard, **limits)
    assert end.images == len(lengths)
    for unit in units:
        size = sum(item.length or 0 for item in unit.items)
        assert len(unit.items) <= max_images
        assert size <= max_bytes or len(unit.items) == 1
    for before, after in pairwise(units):
        first = after.items[0].length or 0
        assert len(before.items) == max_images or sum(i.length or 0 for i in before.items) + first > max_bytes
    assert read(shard, skipped, **limits) == ([unit for unit in units if unit.unit not in skipped], end)


def test_max_images_of_a_shard_stops_the_reading_and_moves_no_boundary(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    whole, _ = read(make_shard(path, [10] * 10), max_images=4)
    for limit in range(1, 11):
        units, end = read(shard_of(path, max_images=limit), max_images=4)
        assert (end.images, end.units) == (limit, -(-limit // 4))
        assert [i for u in units for i in u.items] == [i for u in whole for i in u.items][:limit]


# ---- sidecars


def test_sidecars_are_kept_by_extension_and_by_field(tmp_path: Path) -> None:
    members = {
        "a.json": b'{"caption": "a \\u00fc", "n": 3, "deep": {"er": [1, "x"]}, "none": null, "dotted.name": "d"}',
        "a.jpg": b"image",
        "a.txt": "äh\n".encode(),
        "b.jpg": b"image",
        "c.jpg": b"image",
        "c.json": b"not json",
    }
    keep = ("txt", "json", "json.caption", "json.n", "json.deep", "json.deep.er", "json.none", "json.dotted.name")
    a, b, c = items_of(shard_of(tmp_path / "x.tar", tar_bytes(members)), keep=keep)
    assert a.kept == {
        "txt": "äh\n",
        "json": members["a.json"].decode(),
        "json.caption": "a ü",
        "json.n": "3",
        "json.deep": '{"er": [1, "x"]}',
        "json.deep.er": '[1, "x"]',
        "json.none": None,
        "json.dotted.name": "d",
    }
    assert b.kept == dict.fromkeys(keep)
    assert c.kept == {**dict.fromkeys(keep), "json": "not json"}


def test_several_images_of_one_key_share_their_sidecars_across_units(tmp_path: Path) -> None:
    members = {"a.0.jpg": b"0", "a.txt": b"shared", "a.1.jpg": b"1", "a.2.seg.png": b"2", "dir.x/a.jpg": b"3"}
    items = items_of(shard_of(tmp_path / "x.tar", tar_bytes(members)), keep=("txt",), max_images=2)
    assert [(item.key, item.kept["txt"]) for item in items] == [
        ("a.0.jpg", "shared"),
        ("a.1.jpg", "shared"),
        ("a.2.seg.png", "shared"),
        ("dir.x/a.jpg", None),
    ]


def test_a_sidecar_among_skipped_images_still_reaches_those_that_are_not(tmp_path: Path) -> None:
    members = {"a.0.jpg": b"0", "a.txt": b"shared", **{f"a.{i}.jpg": b"x" for i in range(1, 6)}}
    shard = shard_of(tmp_path / "x.tar", tar_bytes(members))
    whole, end = read(shard, keep=("txt",), max_images=1)
    assert read(shard, {0, 1, 2, 3}, keep=("txt",), max_images=1) == (whole[4:], end)
    assert whole[5].items[0].kept == {"txt": "shared"}


def test_kept_text_is_always_valid_utf8(tmp_path: Path) -> None:
    members = {"a.jpg": b"x", "a.txt": b"\xff\xfe", "a.json": b'{"s": "\\ud800"}'}
    (item,) = items_of(shard_of(tmp_path / "x.tar", tar_bytes(members)), keep=("txt", "json.s"))
    assert all(value is not None and value.encode() for value in item.kept.values())


# ---- what is downloaded


def big_tar(path_or_uri: str) -> Shard:
    members = {f"{i}.jpg": bytes([i]) * (2 << 20) for i in range(6)}
    storage.put(path_or_uri, tar_bytes(members))
    info = storage.head(path_or_uri)
    assert info is not None
    return Shard("000000", info.uri, info.size, info.etag, "webdataset")


def test_bodies_of_skipped_units_are_not_downloaded(bucket: str, proxy: Proxy) -> None:
    shard = big_tar(bucket + "/x.tar")
    before = storage.traffic().bytes_read
    units, end = read(shard, {0, 1, 2, 4, 5}, max_images=1)
    assert (end.units, end.images) == (6, 6)
    assert [item.data == bytes([3]) * (2 << 20) for item in units[0].items] == [True]
    read_now = storage.traffic().bytes_read - before
    assert 2 << 20 <= read_now <= (2 << 20) + 8 * (128 << 10), "one body of six, and the headers"


@pytest.mark.parametrize("skipped", [set(), {0, 2}])
def test_broken_connections_are_not_seen_in_the_units(
    bucket: str, proxy: Proxy, skipped: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = big_tar(bucket + "/x.tar")
    expected = read(shard, skipped, max_images=2)
    proxy.cut_after, proxy.cuts = 1_000_000, 3
    assert read(shard, skipped, max_images=2) == expected
    assert proxy.cuts == 0


def test_leaving_early_closes_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close: Callable[[storage.ByteStream], None] = storage.ByteStream.close
    monkeypatch.setattr(storage.ByteStream, "close", lambda stream: (closed.append(stream.uri), close(stream))[1])
    shard = make_shard(tmp_path / "x.tar", [10] * 10)
    reading = read_units(shard, max_images=2)
    next(reading)
    assert closed == []
    reading.close()  # type: ignore[attr-defined]
    assert closed == [shard.uri]

"""Reading WebDataset tars: exact, streaming, and honest about every ugly archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import tar_bytes
from s3_server import Proxy

from labeler import storage
from labeler.errors import InputChanged, StorageError
from labeler.shards import Item, Shard, ShardEnd, Unit, read_units
from labeler.shards.units import UnitCutter


def shard_of(path: Path, data: bytes | None = None, **options: Any) -> Shard:
    if data is not None:
        path.write_bytes(data)
    info = storage.head(str(path))
    assert info is not None
    return Shard("000000", info.uri, info.size, info.etag, "webdataset", **options)


def read(shard: Shard, skipped: Collection[int] = (), **options: Any) -> tuple[list[Unit], ShardEnd]:
    *units, end = read_units(shard, skip=lambda unit: unit in skipped, **options)
    assert isinstance(end, ShardEnd)
    assert all(isinstance(unit, Unit) and unit.items for unit in units)
    return [unit for unit in units if isinstance(unit, Unit)], end


def items_of(shard: Shard, **options: Any) -> list[Item]:
    units, end = read(shard, **options)
    items = [item for unit in units for item in unit.items]
    assert [item.index for item in items] == list(range(end.images))
    assert [unit.unit for unit in units] == list(range(end.units))
    return items


def header(name: str, size: int, **fields: Any) -> bytes:
    """One raw tar header block."""
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


# ---- plain tars


@pytest.mark.parametrize("data", [b"", bytes(1024), bytes(300), tar_bytes({}), tar_bytes({"a.json": b"{}"})])
def test_a_tar_without_images_is_only_an_end(tmp_path: Path, data: bytes) -> None:
    (end,) = read_units(shard_of(tmp_path / "x.tar", data))
    assert isinstance(end, ShardEnd)
    assert (end.shard_id, end.units, end.images) == ("000000", 0, 0)


def test_items_say_where_their_bytes_are(tmp_path: Path) -> None:
    members = {"a/1.jpg": b"one" * 300, "a/1.txt": b"text", "a/2.PNG": b"", "b.webp": b"three", "notes": b"x"}
    path = tmp_path / "x.tar"
    items = items_of(shard_of(path, tar_bytes(members)))
    assert [(item.key, item.data, item.error) for item in items] == [
        ("a/1.jpg", b"one" * 300, None),
        ("a/2.PNG", b"", None),
        ("b.webp", b"three", None),
    ]
    for item in items:
        assert item.offset is not None
        assert item.length is not None
        assert storage.read_bytes(item.uri, start=item.offset, length=item.length) == members[item.key]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_dialect_reads_like_tarfile(tmp_path: Path, format: int) -> None:
    long = "folder/" * 12 + "n" * 90 + ".jpg"
    names = ["a.jpg", long, "ü/图像.png", "/absolute.jpg", "../up.jpg", "./dot.jpg"]
    if format != tarfile.USTAR_FORMAT:
        names.append("deep/" * 80 + "x.jpg")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, pax_headers={"comment": "global"}) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = number * 100
            info.pax_headers = {"comment": "x" * 600} if format == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    items = items_of(shard_of(tmp_path / "x.tar", buffer.getvalue()))
    assert [(item.key, item.data) for item in items] == [(n, bytes([i]) * (i * 100)) for i, n in enumerate(names)]
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert [item.offset for item in items] == [member.offset_data for member in tar if member.isfile()]


def test_links_folders_and_devices_are_no_images(tmp_path: Path) -> None:
    data = b"".join(
        [
            header("folder.jpg", 0, type=tarfile.DIRTYPE),
            header("soft.jpg", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            header("hard.jpg", 99, type=tarfile.LNKTYPE, linkname="real.jpg"),
            header("null.jpg", 0, type=tarfile.CHRTYPE),
            header("pipe.jpg", 0, type=tarfile.FIFOTYPE),
            header("real.jpg", 3) + padded(b"abc"),
            header("contiguous.jpg", 3, type=tarfile.CONTTYPE) + padded(b"def"),
            bytes(1024),
        ]
    )
    assert [(item.key, item.data) for item in items_of(shard_of(tmp_path / "x.tar", data))] == [
        ("real.jpg", b"abc"),
        ("contiguous.jpg", b"def"),
    ]


def test_pickles_are_passed_over_and_never_loaded(tmp_path: Path) -> None:
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "boom").encode() + b"'\ntR."
    members = {"a.pkl": bomb, "a.pt": bomb, "a.pyd": bomb, "a.jpg": b"image"}
    items = items_of(shard_of(tmp_path / "x.tar", tar_bytes(members)), keep=("pkl.x", "cls"))
    assert [item.key for item in items] == ["a.jpg"]
    assert not (tmp_path / "boom").exists()


def test_names_that_are_no_utf8_get_a_stable_escape(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    data = header(name, 3) + padded(b"abc") + bytes(1024)
    (item,) = items_of(shard_of(tmp_path / "x.tar", data))
    assert item.key == "caf\\xe9.jpg"
    assert item.key.encode()


def test_mac_companions_are_no_images(tmp_path: Path) -> None:
    members = {"._a.jpg": b"resource fork", "a.jpg": b"image", "_DSC1.jpg": b"camera"}
    assert [i.key for i in items_of(shard_of(tmp_path / "x.tar", tar_bytes(members)))] == ["a.jpg", "_DSC1.jpg"]


# ---- ugly tars


def test_duplicate_names_are_rows_of_their_own(tmp_path: Path) -> None:
    data = b"".join(header("a.jpg", 3) + padded(body) for body in (b"one", b"two", b"333")) + bytes(1024)
    items = items_of(shard_of(tmp_path / "x.tar", data))
    assert [(item.index, item.data, item.error) for item in items] == [
        (0, b"one", None),
        (1, None, "duplicate member name"),
        (2, None, "duplicate member name"),
    ]


@pytest.mark.parametrize(
    "join",
    [
        pytest.param(lambda tars: b"".join(tars), id="cat a.tar b.tar"),
        pytest.param(
            lambda tars: bytes(512).join(tar.rstrip(b"\0").ljust(3 * 512, b"\0") for tar in tars),
            id="a lone zero block",
        ),
        pytest.param(lambda tars: bytes(1 << 20).join(tars) + bytes(1 << 20), id="a megabyte of zeros"),
    ],
)
def test_what_follows_an_end_of_archive_is_read(tmp_path: Path, join: Callable[[list[bytes]], bytes]) -> None:
    tars = [tar_bytes({f"{i}.jpg": b"x" * 700}, format=tarfile.USTAR_FORMAT) for i in range(3)]
    items = items_of(shard_of(tmp_path / "a.tar", join(tars)))
    assert [(item.key, item.data) for item in items] == [(f"{i}.jpg", b"x" * 700) for i in range(3)]
    assert all((tmp_path / "a.tar").read_bytes()[i.offset :][: i.length] == i.data for i in items if i.offset)


def test_what_follows_an_end_of_archive_and_is_no_archive_is_a_row(tmp_path: Path) -> None:
    first, junk = items_of(shard_of(tmp_path / "a.tar", tar_bytes({"a.jpg": b"a"}) + b"junk" * 128))
    assert (first.key, first.error) == ("a.jpg", None)
    assert junk.error == "corrupt tar header"


def test_a_cut_anywhere_keeps_what_is_whole_and_names_the_rest(tmp_path: Path) -> None:
    members = {"a.jpg": b"a" * 700, "b.json": b"{}", "c.jpg": b"c" * 700}
    whole = tar_bytes(members)
    ends = {"a.jpg": 512 + 700, "b.json": 1536 + 512 + 2, "c.jpg": 2560 + 512 + 700}
    for cut in range(0, ends["c.jpg"] + 1, 37):
        items = items_of(shard_of(tmp_path / "x.tar", whole[:cut]))
        complete = [name for name in ("a.jpg", "c.jpg") if ends[name] <= cut]
        assert [item.key for item in items if item.error is None] == complete
        assert all(item.data == members[item.key] for item in items if item.error is None)
        broken = [item for item in items if item.error is not None]
        assert len(broken) <= 1
        at_a_boundary = any(ends[n] <= cut <= ends[n] + (-ends[n] % 512) for n in ends) or cut == 0
        assert bool(broken) != at_a_boundary, f"cut at {cut}"
        if broken:
            assert items[-1] is broken[0]
            assert (broken[0].error, broken[0].data, broken[0].offset) == ("truncated member", None, None)


def test_a_cut_image_is_named(tmp_path: Path) -> None:
    whole = tar_bytes({"a.jpg": b"a" * 700, "b.jpg": b"b" * 700})
    items = items_of(shard_of(tmp_path / "x.tar", whole[:2100]))
    assert [(item.key, item.error) for item in items] == [("a.jpg", None), ("b.jpg", "truncated member")]
    (header_cut,) = items_of(shard_of(tmp_path / "x.tar", whole[:100]))
    assert (header_cut.key, header_cut.error) == ("<offset 0>", "truncated member")


def test_garbage_instead_of_a_header_ends_the_shard(tmp_path: Path) -> None:
    data = header("a.jpg", 3) + padded(b"abc") + b"garbage!" * 64 + header("b.jpg", 0) + bytes(1024)
    items = items_of(shard_of(tmp_path / "x.tar", data))
    assert [(item.key, item.error) for item in items] == [("a.jpg", None), ("<offset 1024>", "corrupt tar header")]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b" + b"gzip" * 300,
        b"<html>404</html>" * 50,
        header("a.jpg", 5)[:124] + b"zzzzzzzzzzz\0" + header("a.jpg", 5)[136:],
        header("x", 20, type=tarfile.XHDTYPE) + padded(b"99999 path=a\n"),
        header("x", 20, type=tarfile.XHDTYPE) + padded(b"no length at all"),
        header("x", 1 << 30, type=tarfile.GNUTYPE_LONGNAME),
    ],
)
def test_what_is_no_tar_is_one_row(tmp_path: Path, data: bytes) -> None:
    (item,) = items_of(shard_of(tmp_path / "x.tar", data))
    assert (item.key, item.error, item.data) == ("<offset 0>", "corrupt tar header", None)


def test_sparse_members_are_rows_and_the_archive_goes_on(tmp_path: Path) -> None:
    sparse = bytearray(header("s.jpg", 10, type=tarfile.GNUTYPE_SPARSE))
    sparse[482] = 1  # one more block of map follows
    sparse[148:156] = b"%06o\0 " % (256 + sum(sparse[:148]) + sum(sparse[156:]))
    data = bytes(sparse) + bytes(512) + padded(b"0123456789") + header("b.jpg", 3) + padded(b"abc") + bytes(1024)
    items = items_of(shard_of(tmp_path / "x.tar", data))
    assert [(item.key, item.error) for item in items] == [("s.jpg", "sparse member"), ("b.jpg", None)]


def test_a_huge_member_is_a_row_and_is_not_read(tmp_path: Path) -> None:
    members = {"a.jpg": b"a" * 100, "b.jpg": b"b" * 1000, "c.jpg": b"c" * 100}
    items = items_of(shard_of(tmp_path / "x.tar", tar_bytes(members)), max_image_bytes=999)
    assert [item.error for item in items] == [None, "member of 1000 bytes is larger than 999", None]
    assert items[1].data is None
    assert items[1].length == 1000


def test_a_replaced_tar_is_input_changed(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "x.tar", tar_bytes({"a.jpg": b"a"}))
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.jpg": b"a" * 20_000}))
    with pytest.raises(InputChanged, match=r"x.tar"):
        list(read_units(shard))


def test_a_missing_tar_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"x.tar: no such file"):
        list(read_units(Shard("000000", str(tmp_path / "x.tar"), 1024, None, "webdataset")))


# ---- units


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

"""Reading WebDataset tars: exact, streaming, and honest about every ugly archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inputs import tar_bytes

from labeler import storage
from labeler.errors import InputChanged, StorageError
from labeler.shards import Shard, ShardEnd, read_units
from tests.shard_parts import items_of, shard_of


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

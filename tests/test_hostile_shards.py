"""Tars and Parquet files that lie, and names that would be somewhere else if they were believed."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.shards import Item, Unit, find_shards, read_units
from tests.inputs import image_bytes, tar_bytes
from tests.s3_server import Proxy

GOOD = image_bytes(1)
NAMES = ["/etc/passwd.png", "../../up.png", "C:\\windows\\x.png", "a\nb.png", "\x1b[31mred.png", "=cmd|'x'!A1.png",
         "<script>.png", "\u202egnp.exe.png", "~/x.png", "s3://b/k.png", "."*200 + ".png"]  # fmt: skip


def items_of(uri: str, **options: object) -> list[Item]:
    (shard,) = find_shards(uri)
    return [item for unit in read_units(shard, **options) if isinstance(unit, Unit) for item in unit.items]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(*records: tuple[str, str]) -> bytes:
    body = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + len(str(len(rest)))
        length += len(str(length)) - len(str(len(rest)))
        body += str(length).encode() + rest
    return header("pax", len(body), tarfile.XHDTYPE) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def member(name: str, data: bytes = GOOD) -> bytes:
    return header(name, len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def write(folder: Path, data: bytes, name: str = "x.tar") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


# ---- tars


def test_names_are_data_and_nothing_is_written_where_they_point(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    uri = write(inside, tar_bytes(dict.fromkeys(NAMES, GOOD)))
    items = items_of(uri)
    assert [item.key for item in items] == NAMES
    assert all(item.data == GOOD for item in items)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "x.tar"]


def test_a_name_of_megabytes_becomes_a_short_key_that_stays_unique(tmp_path: Path) -> None:
    tails = ["one", "two"]
    uri = write(
        tmp_path, b"".join(pax(("path", "x" * 3_000_000 + tail + "/0.png")) + member("0.png") for tail in tails)
    )
    keys = [item.key for item in items_of(uri)]
    assert len(set(keys)) == 2
    assert all(len(key) < 1400 and key.endswith("/0.png") for key in keys)


@pytest.mark.parametrize(
    ("records", "error"),
    [
        ([("size", "9" * 5000)], "corrupt tar header"),
        ([("size", "-1")], "corrupt tar header"),
        ([("size", "99999999999999")], "truncated member"),
        ([("path", "")], None),
        ([("GNU.sparse.major", "1")], "sparse member"),
        ([("path", "pax.png"), ("path", "again.png")], None),
    ],
)
def test_pax_oddities_have_a_stable_reason(records: list[tuple[str, str]], error: str | None, tmp_path: Path) -> None:
    uri = write(tmp_path, member("first.png") + pax(*records) + member("0.png") + bytes(1024))
    first, *rest = items_of(uri)
    assert first.data == GOOD
    assert [item.error for item in rest] == [error]
    assert all(item.key for item in rest)


def test_a_member_that_claims_100_gigabytes_is_one_truncated_row(tmp_path: Path) -> None:
    uri = write(tmp_path, member("0.png") + header("1.png", 100 << 30) + GOOD)
    first, huge = items_of(uri)
    assert first.data == GOOD
    assert (huge.key, huge.data, huge.error, huge.length) == ("1.png", None, "truncated member", None)


def test_a_gzipped_tar_under_another_name_is_one_row(tmp_path: Path) -> None:
    import gzip

    (item,) = items_of(write(tmp_path, gzip.compress(tar_bytes({"0.png": GOOD}))))
    assert item.error == "corrupt tar header"


def test_links_to_elsewhere_are_passed_over(tmp_path: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    links = b"".join(header(f"{number}.png", 0, kind) for number, kind in enumerate(kinds))
    (item,) = items_of(write(tmp_path, links + member("real.png") + bytes(1024)))
    assert (item.key, item.data) == ("real.png", GOOD)


# ---- Parquet


def parquet(folder: Path, table: pa.Table) -> str:
    pq.write_table(table, folder / "x.parquet")
    return str(folder / "x.parquet")


def test_a_parquet_file_never_unpickles_what_it_carries(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "owned",)

    carried = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Bomb())}
    field = pa.field("image", pa.binary(), metadata=carried)
    uri = parquet(tmp_path, pa.table([pa.array([GOOD, pickle.dumps(Bomb())])], schema=pa.schema([field])))
    assert [item.error for item in items_of(uri)] == [None, None]
    assert not (tmp_path / "owned").exists()


def test_a_parquet_file_from_elsewhere_cannot_name_files_of_this_machine(
    bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    from labeler import storage

    secret = write(tmp_path, GOOD, "secret.png")
    storage.put(bucket + "/near.png", GOOD)
    addresses = [secret, f"file://{secret}", f"local://{secret}", f"simplecache::file://{secret}", "near.png"]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"url": addresses}), buffer)
    storage.put(bucket + "/x.parquet", buffer.getvalue())
    errors = [item.error for item in items_of(bucket + "/x.parquet", image_column="url")]
    assert errors == ["not a valid address"] * 4 + [None]


def test_huge_cells_are_rows_and_their_neighbours_are_read(tmp_path: Path) -> None:
    limit = 20 * len(GOOD)
    for kind in (pa.binary(), pa.large_binary()):
        uri = parquet(tmp_path, pa.table({"image": pa.array([GOOD, bytes(2 * limit), *[GOOD] * 30], kind)}))
        items = items_of(uri, max_image_bytes=limit)
        assert [item.error for item in items] == [
            None,
            f"member of {2 * limit} bytes is larger than {limit}",
            *[None] * 30,
        ]
    uri = parquet(tmp_path, pa.table({"image": [{"bytes": b"\1" * 5000, "path": "p"}], "note": ["n"]}))
    (item,) = items_of(uri, max_image_bytes=1000, keep=["note"])
    assert str(item.error).startswith("row group of ")
    assert str(item.error).endswith(" bytes has more than 1000 a row")
    assert item.data is None


def test_a_huge_cell_that_is_only_kept_is_left_out(tmp_path: Path) -> None:
    notes = ["short", "x" * (2 << 20), None]
    uri = parquet(tmp_path, pa.table({"image": [GOOD] * 3, "note": notes, "list": [[1], list(range(400_000)), None]}))
    items = items_of(uri, keep=["note", "list"])
    assert [item.kept["note"] for item in items] == ["short", None, None]
    assert [item.kept["list"] for item in items] == ["[1]", None, None]
    assert all(item.data == GOOD for item in items)


@pytest.mark.parametrize("damage", [b"PAR1", b"PAR1" + struct.pack("<I", 2**31) + b"PAR1", b"PAR1" * 1000])
def test_what_is_no_parquet_file_is_one_row(damage: bytes, tmp_path: Path) -> None:
    (item,) = items_of(write(tmp_path, damage, "x.parquet"))
    assert item.error == "unreadable Parquet footer"

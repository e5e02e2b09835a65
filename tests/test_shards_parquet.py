"""Reading images out of Parquet files: bytes, structs of Hugging Face datasets, and URIs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import image_bytes
from s3_server import Proxy

from labeler import storage
from labeler.errors import InputChanged, Refused, StorageError
from labeler.shards import Shard, ShardEnd, count_images, read_units
from labeler.shards.image_column import find_image_column
from labeler.storage.ranged_file import RangedFile
from tests.shard_parts import items_of, read

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(uri: str | Path, columns: dict[str, Any], **options: Any) -> Shard:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", **{"use_dictionary": False, **options})
    storage.put(str(uri), bytes(sink.getvalue()))
    info = storage.head(str(uri))
    assert info is not None
    return Shard("000000", info.uri, info.size, info.etag, "parquet")


def test_a_file_without_rows_is_only_an_end(tmp_path: Path) -> None:
    shard = write(tmp_path / "x.parquet", {"image": pa.array([], pa.binary())})
    assert list(read_units(shard)) == [ShardEnd("000000", 0, 0)]
    assert count_images(shard) == 0


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_a_column_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    values = [b"one", b"two", None, b""]
    shard = write(tmp_path / "x.parquet", {"n": [1, 2, 3, 4], "image": pa.array(values, kind)})
    items = items_of(shard)
    assert [(i.key, i.data, i.error) for i in items] == [
        ("0", b"one", None), ("1", b"two", None), ("2", None, "null image"), ("3", b"", None)
    ]  # fmt: skip
    assert {(item.offset, item.length, item.uri) for item in items} == {(None, None, shard.uri)}
    assert count_images(shard) == 4


def test_a_struct_column_is_keyed_by_its_paths_where_they_are_unique(tmp_path: Path) -> None:
    (tmp_path / "beside.jpg").write_bytes(b"beside")
    rows = [
        {"bytes": b"one", "path": "a.jpg"},
        {"bytes": b"two", "path": None},
        None,
        {"bytes": None, "path": None},
        {"bytes": b"five", "path": "a.jpg"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": "gone.jpg"},
    ]
    items = items_of(write(tmp_path / "x.parquet", {"image": pa.array(rows, STRUCT)}))
    assert [(i.key, i.data, i.error) for i in items] == [
        ("a.jpg", b"one", None),
        ("1", b"two", None),
        ("2", None, "null image"),
        ("3", None, "null image"),
        ("4", b"five", None),
        ("beside.jpg", b"beside", None),
        ("gone.jpg", None, "missing object"),
    ]
    assert items[5].uri == str(tmp_path / "beside.jpg")


def test_what_hugging_face_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image_bytes(number))
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    made = datasets.Dataset.from_dict({"image": paths, "label": [0, 1, 2]}).cast_column("image", datasets.Image())
    made.to_parquet(str(tmp_path / "x.parquet"))
    info = storage.head(str(tmp_path / "x.parquet"))
    assert info is not None
    items = items_of(Shard("000000", info.uri, info.size, info.etag, "parquet"), keep=("label",))
    assert [(i.data, i.kept) for i in items] == [(image_bytes(n), {"label": str(n)}) for n in range(3)]


def test_a_uri_column_is_fetched_in_order(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.jpg").write_bytes(bytes([number]))
    uris = [str(tmp_path / f"{n}.jpg") if n % 2 else f"{n}.jpg" for n in range(50)]
    uris[7], uris[8] = "nosuch://x/y", str(tmp_path / "gone.jpg")
    shard = write(tmp_path / "x.parquet", {"caption": ["c"] * 50, "url": [*uris, None]} | {"caption": ["c"] * 51})
    items = items_of(shard)
    good = [n for n in range(50) if n not in (7, 8)]
    assert [items[n].data for n in good] == [bytes([n]) for n in good]
    assert [items[n].key for n in range(50)] == uris
    assert [items[n].error for n in (7, 8, 50)] == ["not a valid address", "missing object", "null image"]
    assert items[2].uri == str(tmp_path / "2.jpg")
    assert storage.read_bytes(items[2].uri, start=items[2].offset or 0, length=items[2].length) == bytes([2])
    assert items_of(shard, max_image_bytes=0)[0].error == "member of 1 bytes is larger than 0"


def test_kept_columns_are_text(tmp_path: Path) -> None:
    shard = write(
        tmp_path / "x.parquet",
        {
            "image": [b"x", b"y"],
            "caption": ["ü", None],
            "n": [1, 2],
            "ok": [True, False],
            "list": [[1, 2], []],
            "nested": [{"a": "b"}, None],
            "raw": pa.array([b"\xff", None], pa.binary()),
            "day": [datetime.date(2024, 5, 6), None],
        },
    )
    keep = ("caption", "n", "ok", "list", "nested", "raw", "day", "none")
    first, second = items_of(shard, keep=keep, image_column="image")
    assert first.kept == {
        "caption": "ü", "n": "1", "ok": "true", "list": "[1, 2]", "nested": '{"a": "b"}', "raw": '"/w=="',
        "day": '"2024-05-06"', "none": None,
    }  # fmt: skip
    assert second.kept == {**dict.fromkeys(keep), "n": "2", "ok": "false", "list": "[]"}


# ---- which column


def schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"pixels_of_it": pa.binary()}, ("pixels_of_it", "bytes")),
        ({"id": pa.string(), "picture": STRUCT, "url": pa.string()}, ("picture", "struct")),
        ({"mask": pa.binary(), "Image": pa.large_binary()}, ("Image", "bytes")),
        ({"caption": pa.string(), "URL": pa.large_string()}, ("URL", "uri")),
        ({"path": pa.string(), "image_url": pa.string()}, ("image_url", "uri")),
    ],
)
def test_the_image_column_is_found(columns: dict[str, pa.DataType], expected: tuple[str, str]) -> None:
    found = find_image_column(schema(**columns), None, "x")
    assert (found.name, found.kind) == expected


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"n": pa.int64()}, None, "no column of images .*, only n; set input.image_column"),
        ({"left": pa.binary(), "right": pa.binary()}, None, "several columns that may hold images: left, right"),
        ({"image": pa.binary()}, "img", "no column 'img' .*it has image"),
        ({"n": pa.int64()}, "n", "column 'n' .* is int64; it must hold bytes"),
    ],
)
def test_an_unclear_image_column_is_refused(columns: dict[str, pa.DataType], wanted: str | None, message: str) -> None:
    with pytest.raises(Refused, match=message):
        find_image_column(schema(**columns), wanted, "s3://b/x.parquet")


# ---- units and row groups


def test_small_row_groups_share_a_unit_and_large_ones_are_cut(tmp_path: Path) -> None:
    images = [bytes([n]) * 100 for n in range(30)]
    shard = write(tmp_path / "x.parquet", {"image": images}, row_group_size=4)
    assert [len(unit.items) for unit in read(shard, max_images=8)[0]] == [8, 8, 8, 6]
    assert [len(unit.items) for unit in read(shard, max_images=3)[0]] == [3, 1] * 7 + [2]
    assert [len(unit.items) for unit in read(shard, max_bytes=200)[0]] == [2] * 15
    assert [i.data for i in items_of(shard, max_images=7)] == images


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 2000]), min_size=1, max_size=20),
    paths=st.booleans(),
    row_group_size=st.integers(1, 7),
    max_images=st.integers(1, 5),
    max_bytes=st.sampled_from([1, 300, 5000, 1 << 20]),
    skipped=st.sets(st.integers(0, 20)),
)
def test_units_do_not_depend_on_what_is_skipped(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    paths: bool,
    row_group_size: int,
    max_images: int,
    max_bytes: int,
    skipped: set[int],
) -> None:
    rows = [{"bytes": bytes([n]) * size, "path": f"{n % 4}.jpg" if paths else None} for n, size in enumerate(sizes)]
    column = {"image": pa.array(rows, STRUCT), "n": list(range(len(rows)))}
    shard = write(tmp_path_factory.getbasetemp() / "property.parquet", column, row_group_size=row_group_size)
    limits: dict[str, Any] = {"max_images": max_images, "max_bytes": max_bytes, "keep": ("n",)}
    units, end = read(shard, **limits)
    assert [item.data for unit in units for item in unit.items] == [row["bytes"] for row in rows]
    assert end.images == len(sizes)
    for unit in units:
        assert len(unit.items) <= max_images
        assert sum(len(item.data or b"") for item in unit.items) <= max_bytes or len(unit.items) == 1
    assert read(shard, skipped, **limits) == ([unit for unit in units if unit.unit not in skipped], end)


def test_keys_do_not_depend_on_what_is_skipped(tmp_path: Path) -> None:
    rows = [{"bytes": b"x", "path": path} for path in ("a.jpg", "b.jpg", "a.jpg", "c.jpg")]
    shard = write(tmp_path / "x.parquet", {"image": pa.array(rows, STRUCT)}, row_group_size=2)
    assert [item.key for item in items_of(shard, max_images=2)] == ["a.jpg", "b.jpg", "2", "c.jpg"]
    ((unit,), _) = read(shard, {0}, max_images=2)
    assert [item.key for item in unit.items] == ["2", "c.jpg"]


def test_max_images_of_a_shard_stops_the_reading(tmp_path: Path) -> None:
    shard = write(tmp_path / "x.parquet", {"image": [b"x"] * 10}, row_group_size=3)
    limited = Shard("000000", shard.uri, shard.size, shard.etag, "parquet", max_images=5)
    units, end = read(limited, max_images=3)
    assert ([len(unit.items) for unit in units], end.images, count_images(limited)) == ([3, 2], 5, 5)


# ---- broken files


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all" * 100])
def test_a_file_without_a_readable_footer_is_one_row(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    shard = Shard("000000", str(tmp_path / "x.parquet"), len(data), None, "parquet")
    (item,) = items_of(shard)
    assert (item.key, item.error) == ("<footer>", "unreadable Parquet footer")
    assert count_images(shard) is None


def test_unreadable_data_costs_only_the_rows_of_its_row_group(tmp_path: Path) -> None:
    images = [bytes([n]) * 2000 for n in range(9)]
    path = tmp_path / "x.parquet"
    write(path, {"image": images}, row_group_size=3)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    items = items_of(Shard("000000", str(path), len(data), None, "parquet"))
    assert [item.error for item in items] == [None] * 3 + ["unreadable Parquet data"] * 3 + [None] * 3
    assert [item.data for item in items if item.data] == images[:3] + images[6:]


def test_a_replaced_file_is_input_changed_not_unreadable_data(tmp_path: Path) -> None:
    shard = write(tmp_path / "x.parquet", {"image": [b"x"]})
    write(tmp_path / "x.parquet", {"image": [b"y" * 100]})
    with pytest.raises(InputChanged):
        list(read_units(shard))


def test_a_missing_file_is_a_storage_error_not_a_row(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        list(read_units(Shard("000000", str(tmp_path / "x.parquet"), 100, None, "parquet")))


def test_a_file_without_images_is_refused_when_read(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"x.parquet has no column of images"):
        list(read_units(write(tmp_path / "x.parquet", {"n": [1]})))


# ---- what is downloaded


def big_parquet(uri: str) -> Shard:
    images = [bytes([n]) * (1 << 20) for n in range(24)]
    return write(uri, {"image": pa.array(images, pa.binary())}, row_group_size=4)


def test_row_groups_of_skipped_units_are_not_downloaded(bucket: str) -> None:
    shard = big_parquet(bucket + "/x.parquet")
    before = storage.traffic().bytes_read
    units, end = read(shard, {0, 1, 2, 4, 5}, max_images=4)
    assert ([unit.unit for unit in units], end.units) == ([3], 6)
    assert [item.data for item in units[0].items] == [bytes([n]) * (1 << 20) for n in range(12, 16)]
    assert storage.traffic().bytes_read - before < 14 << 20, "4 MiB, its neighbors' blocks, and the footer, of 24 MiB"


def test_broken_connections_are_not_seen_in_the_units(bucket: str, proxy: Proxy) -> None:
    shard = big_parquet(bucket + "/x.parquet")
    proxy.cut_after, proxy.cuts = 3_000_000, 4
    items = items_of(shard)
    assert proxy.cuts == 0
    assert [item.data for item in items] == [bytes([n]) * (1 << 20) for n in range(24)]


def test_a_ranged_file_is_the_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 70_000
    (tmp_path / "x").write_bytes(data)
    file = RangedFile(str(tmp_path / "x"), len(data), None)
    for start, length in (
        (0, 10),
        (len(data) - 8, 8),
        (4 << 20, 5),
        ((4 << 20) - 3, 9),
        (100, 9 << 20),
        (len(data), 4),
    ):
        file.seek(start)
        assert file.read(length) == data[start : start + length]
    assert file.seek(-5, 2) == len(data) - 5
    assert file.read() == data[-5:]
    assert file.seek(-2, 1) == len(data) - 2

"""What an input holds beside its images is counted by extension; content decides where names say nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler.errors import Refused
from labeler.shards import ShardEnd, Unit, find_shards, read_units, skipped
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.shard_parts import shard_of


def end_of(path: Path, members: dict[str, bytes], **options: object) -> tuple[list[str], ShardEnd]:
    *units, end = read_units(shard_of(path, tar_bytes(members)), **options)  # type: ignore[arg-type]
    assert isinstance(end, ShardEnd)
    return [item.key for unit in units if isinstance(unit, Unit) for item in unit.items], end


def found(folder: Path, **options: object) -> tuple[list[str], dict[str, int]]:
    counts = Counter[str]()
    shards = find_shards(str(folder), counts=counts, **options)  # type: ignore[arg-type]
    keys = [member.key for shard in shards for member in shard.members or ()]
    return keys or [shard.name or "" for shard in shards], dict(counts)


def test_nothing_skipped_is_nothing_written() -> None:
    assert (skipped.describe({}), skipped.to_bytes({}), skipped.from_bytes(b"")) == ("", b"", Counter())


@given(st.dictionaries(st.text(max_size=20), st.integers(1, 10**9)))
def test_counts_survive_a_marker(counts: dict[str, int]) -> None:
    assert skipped.from_bytes(skipped.to_bytes(counts)) == counts
    assert skipped.to_bytes(dict(reversed(counts.items()))) == skipped.to_bytes(counts)


@pytest.mark.parametrize("data", [b"[]", b'{"a": "b"}', b"{", b"\xff"])
def test_other_bytes_are_not_counts(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's or labeler's
        skipped.from_bytes(data)


def test_a_strangers_names_cannot_make_the_counts_large() -> None:
    counts = Counter[str]()
    for i in range(1000):
        skipped.count(counts, f"a.{i}")
        skipped.count(counts, f"a.{'x' * i}")
    assert sum(counts.values()) == 2000
    assert len(counts) <= 101
    assert max(map(len, counts)) <= 16


def test_members_that_are_not_images_are_counted_by_extension(tmp_path: Path) -> None:
    members = {"0.jpg": b"x", "0.json": b"{}", "0.txt": b"a", "1.jxl": b"\xff\x0a", "1.txt": b"b", "README": b"c"}
    keys, end = end_of(tmp_path / "a.tar", members)
    assert keys == ["0.jpg"]
    assert end.skipped == {"json": 1, "txt": 2, "jxl": 1, "no extension": 1}
    assert skipped.describe(end.skipped) == "txt 2, json 1, jxl 1, no extension 1"


def test_kept_sidecars_are_not_skipped(tmp_path: Path) -> None:
    members = {"0.jpg": b"x", "0.json": b"{}", "0.txt": b"a"}
    assert end_of(tmp_path / "a.tar", members, keep=("txt", "json.caption"))[1].skipped == {}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("name", ["0001", "x.bin", "x.image", "dir.d/x"])
def test_a_member_that_begins_like_an_image_is_one(tmp_path: Path, name: str, format: str) -> None:
    data = image_bytes(1, format=format)
    for members in ({name: data}, {"a.txt": b"a", name: data, "b.txt": b"b"}):
        (unit, _) = read_units(shard_of(tmp_path / "a.tar", tar_bytes(members)))
        assert isinstance(unit, Unit)
        (item,) = unit.items
        assert (item.key, item.data, item.length) == (name, data, len(data))
        assert (tmp_path / "a.tar").read_bytes()[item.offset :][: len(data)] == data


def test_counts_do_not_depend_on_what_is_skipped(tmp_path: Path) -> None:
    members = {f"{i}{e}": d for i in range(20) for e, d in ((".jpg", b"x"), (".json", b"{}"), ("", image_bytes(i)))}
    shard = shard_of(tmp_path / "a.tar", tar_bytes(members))
    ends = [list(read_units(shard, max_images=4, skip=skip))[-1] for skip in (lambda u: True, lambda u: u % 2 == 0)]
    assert ends == [list(read_units(shard, max_images=4))[-1]] * 2


# ---- folders


def test_files_beside_the_input_are_counted(tmp_path: Path) -> None:
    write_tars(tmp_path, shards=2, images=1)
    for name in ("a.json", "b.json", "README", ".hidden", "_SUCCESS", "x.jxl"):
        (tmp_path / name).write_bytes(b"?")
    assert found(tmp_path) == (["00000.tar", "00001.tar"], {"json": 2, "no extension": 1, "hidden": 2, "jxl": 1})


def test_files_without_an_extension_are_images_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "0001").write_bytes(image_bytes(1, format="JPEG"))
    (tmp_path / "0002").write_bytes(b"no")
    (tmp_path / "empty").write_bytes(b"")
    assert found(tmp_path) == (["0001"], {"no extension": 2})
    (tmp_path / "b.png").write_bytes(image_bytes(2))
    assert found(tmp_path) == (["0001", "b.png"], {"no extension": 2})
    assert found(tmp_path, known=[str(tmp_path / "0001")]) == (["b.png"], {"no extension": 2})


# ---- Parquet files without images


def parquet(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_files_without_images_are_named_at_once(tmp_path: Path) -> None:
    for i in range(4):
        parquet(tmp_path / f"{i}.parquet", **({"image": [b"x"]} if i % 2 else {"score": [1]}))
    with pytest.raises(
        Refused, match=r"2 of 4 Parquet files cannot be labeled.*input\.skip_without_images=true"
    ) as caught:
        find_shards(str(tmp_path))
    assert [f"{tmp_path}/{i}.parquet" in line for i, line in zip((0, 2), caught.value.problems, strict=True)] == [
        True
    ] * 2
    shards, counts = found(tmp_path, skip_without_images=True)
    assert (shards, counts) == (["1.parquet", "3.parquet"], {"Parquet without images": 2})


def test_one_parquet_file_without_images_is_refused_by_its_own_reason(tmp_path: Path) -> None:
    parquet(tmp_path / "0.parquet", score=[1])
    parquet(tmp_path / "1.parquet", image=[b"x"])
    with pytest.raises(Refused, match=r"0\.parquet has no column of images"):
        find_shards(str(tmp_path))


def test_a_choice_between_columns_is_never_skipped(tmp_path: Path) -> None:
    parquet(tmp_path / "0.parquet", left=[b"x"], right=[b"y"])
    with pytest.raises(Refused, match="several columns that may hold images"):
        find_shards(str(tmp_path), skip_without_images=True)


def test_files_without_images_do_not_count_for_a_limit(tmp_path: Path) -> None:
    parquet(tmp_path / "0.parquet", score=[1] * 5)
    parquet(tmp_path / "1.parquet", image=[b"x"] * 5)
    (shard,) = find_shards(str(tmp_path), skip_without_images=True, limit=3)
    assert (shard.shard_id, shard.name, shard.max_images) == ("000000", "1.parquet", 3)

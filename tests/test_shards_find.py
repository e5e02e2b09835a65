"""Finding shards: folders, globs, brace patterns, lists; and every way the input can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inputs import tar_bytes, write_tars
from s3_server import Proxy, S3Server

from labeler import storage
from labeler.errors import LabelerError, Refused
from labeler.shards import READER_VERSION, Shard, ShardEnd, count_images, find_shards, patterns, read_units
from labeler.shards.patterns import expand_braces, glob_regex, static_folder
from labeler.shards.units import Format


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def names_of(shards: list[Shard]) -> list[str]:
    return [storage.basename(shard.uri) for shard in shards]


def keys_of(shards: list[Shard]) -> list[str]:
    return [member.key for shard in shards for member in shard.members or ()]


# ---- nothing there


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "folder {} is empty; check the path"),
        ("gone", "{} does not exist on this machine; check the path, or give object storage"),
        ("gone.tar", "{} does not exist on this machine; check the path, or give object storage"),
        ("gone/*.tar", "{} does not exist on this machine; check the path, or give object storage"),
        ("*.tar", "no file matches {}; check the pattern"),
        ("*/x-*.tar", "no file matches {}; check the pattern"),
    ],
)
@pytest.mark.parametrize("format", [None, "images", "parquet"])
def test_nothing_found_is_refused_in_one_line_with_its_cause(
    tmp_path: Path, name: str, said: str, format: Format | None
) -> None:
    uri = str(tmp_path / name)
    with pytest.raises(Refused) as caught:
        find_shards(uri, format=format)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(said.format(uri))
    assert "\n" not in str(caught.value)
    assert "input.format" not in str(caught.value)


def test_a_prefix_without_objects_is_no_folder_of_this_machine(bucket: str) -> None:
    with pytest.raises(Refused, match=f"{bucket}/gone has no objects; check the bucket and the prefix"):
        find_shards(f"{bucket}/gone")


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    expected = r"has 2 files \(csv 1, txt 1\), but none is a tar, Parquet or image file; check the path$"
    with pytest.raises(Refused, match=expected):
        find_shards(str(touch(tmp_path, "a.txt", "b.csv")))
    with pytest.raises(Refused, match=r"has 1 file \(txt 1\), .*; check the path, or set input.format$"):
        find_shards(str(tmp_path / "a.txt"))
    with pytest.raises(Refused, match="hidden has only hidden files"):
        find_shards(str(touch(tmp_path / "hidden", ".a.tar", "_b.tar")))


def test_a_format_of_which_there_is_no_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(Refused, match="has no Parquet files among its 1 files"):
        find_shards(str(tmp_path), format="parquet")


def test_an_empty_address_is_refused() -> None:
    for uri in ("", [""], []):
        with pytest.raises(Refused):
            find_shards(uri)


# ---- folders, patterns, lists


def test_a_folder_of_tars_is_sorted_and_numbered(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.tar", "a.tar", "b/1.tar", "notes.txt", "index.json")
    shards = find_shards(str(tmp_path))
    assert [(s.shard_id, s.uri) for s in shards] == [
        (f"{i:06d}", f"{tmp_path}/{name}") for i, name in enumerate(["a.tar", "b/1.tar", "b/2.tar"])
    ]
    info = storage.head(shards[0].uri)
    assert info is not None
    assert (shards[0].size, shards[0].etag, shards[0].format) == (info.size, info.etag, "webdataset")
    assert count_images(shards[0]) is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x/*.tar", ["x/1.tar", "x/2.tar"]),
        ("**/*.tar", ["top.tar", "x/1.tar", "x/2.tar", "x/deep/3.tar"]),
        ("x/**", ["x/1.tar", "x/2.tar", "x/deep/3.tar"]),
        ("?/[!1].tar", ["x/2.tar"]),
        ("x/[1-2].tar", ["x/1.tar", "x/2.tar"]),
        ("x/{1,deep/3}.tar", ["x/1.tar", "x/deep/3.tar"]),
        ("{x,top}{/*,}.tar", ["top.tar", "x/1.tar", "x/2.tar"]),
        ("x/2.tar", ["x/2.tar"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "top.tar", "x/1.tar", "x/2.tar", "x/deep/3.tar", "x.tar/in.tar")
    (tmp_path / "x.tar/in.tar").unlink()
    (tmp_path / "x.tar").rmdir()
    if pattern == "{x,top}{/*,}.tar":
        touch(tmp_path, "top/9.tar", "x.tar")
        expected = ["top.tar", "top/9.tar", "x.tar", "x/1.tar", "x/2.tar"]
    assert [s.uri.removeprefix(f"{tmp_path}/") for s in find_shards(f"{tmp_path}/{pattern}")] == expected


def test_a_brace_range_names_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"shard-{n:06d}.tar" for n in range(20)))
    shards = find_shards(f"{tmp_path}/shard-{{000003..000017}}.tar")
    assert names_of(shards) == [f"shard-{n:06d}.tar" for n in range(3, 18)]
    with pytest.raises(Refused, match=r"3 of the 23 objects of .* do not exist, .*000020.tar for example") as caught:
        find_shards(f"{tmp_path}/shard-{{000000..000022}}.tar")
    assert len(caught.value.problems) == 3
    with pytest.raises(Refused, match="1 of the 2 objects"):
        find_shards(f"{tmp_path}/shard-{{000000,x}}.tar")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("plain", ["plain"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("a{b,c{d,e}}f", ["abf", "acdf", "acef"]),
        ("{a,}x{1,2}", ["ax1", "ax2", "x1", "x2"]),
        ("{single}{", ["{single}{"]),
        ("{{a,b}}", ["{a}", "{b}"]),
        ("x[{]a,b}/{c,d}", ["x[{]a,b}/c", "x[{]a,b}/d"]),
        ("{a,b[{]c[}]}", ["a", "b[{]c[}]"]),
    ],
)
def test_braces_expand_as_in_bash(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected


def test_a_brace_range_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAX_EXPANSIONS", 1000)
    with pytest.raises(Refused, match="stands for more than 1000 objects"):
        expand_braces("{0..999999999999}")


def test_globs_know_their_folder_and_their_segments() -> None:
    assert static_folder("s3://b/x/y-*.tar") == "s3://b/x"
    assert static_folder("s3://b*/x") == "s3://"
    assert static_folder("/*") == "/"
    assert glob_regex("/a/*.tar").fullmatch("/a/b.tar")
    assert not glob_regex("/a/*.tar").fullmatch("/a/b/c.tar")
    assert not glob_regex("/a/?.tar").fullmatch("/a//.tar")
    with pytest.raises(Refused, match="not a valid pattern"):
        glob_regex("[z-a]")


def test_lists_are_united_and_every_object_stands_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.tar", "b/2.tar")
    shards = find_shards([f"{tmp_path}/b", f"{tmp_path}/a/1.tar", f"{tmp_path}/*/*.tar"])
    assert names_of(shards) == ["1.tar", "2.tar"]


def test_relative_paths_and_tildes_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/1.tar")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = f"{tmp_path}/in/1.tar"
    for uri in ("in", "./in/", "~/in", "in/*.tar", "in/../in/{1,1}.tar"):
        assert [shard.uri for shard in find_shards(uri)] == [expected]
    assert [shard.uri for shard in find_shards(f"file://{tmp_path}/in")] == [f"file://{expected}"]


def test_names_with_pattern_characters_are_taken_at_their_word(tmp_path: Path) -> None:
    touch(tmp_path, "set[1]/a.tar", "b[1].tar")
    assert names_of(find_shards(f"{tmp_path}/set[1]")) == ["a.tar"]
    assert names_of(find_shards(f"{tmp_path}/b[1].tar")) == ["b[1].tar"]


def test_hidden_files_are_left_out_unless_named(tmp_path: Path) -> None:
    touch(tmp_path, ".a.tar", "_b.tar", ".h/c.tar", "_tmp/d.tar", "e.tar")
    assert names_of(find_shards(str(tmp_path))) == ["e.tar"]
    assert names_of(find_shards([f"{tmp_path}/.a.tar", f"{tmp_path}/_tmp"])) == [".a.tar", "d.tar"]


def test_photographs_named_by_cameras_are_not_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "_DSC0001.jpg", "._DSC0001.jpg", ".thumb.jpg", "_trash/x.jpg", "a.jpg")
    assert keys_of(find_shards(str(tmp_path))) == ["_DSC0001.jpg", "a.jpg"]


# ---- kinds


def test_mixed_kinds_are_refused_with_counts_and_settled_by_format(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "b.jpg", "c.png")
    with pytest.raises(Refused, match=r"mixes 2 image files, 1 tars; set input.format to one of images, webdataset"):
        find_shards(str(tmp_path))
    assert keys_of(find_shards(str(tmp_path), format="images")) == ["b.jpg", "c.png"]
    assert names_of(find_shards(str(tmp_path), format="webdataset")) == ["a.tar"]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst"])
def test_compressed_tars_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "y.tar", "z.jpg")
    for format in (None, "webdataset"):
        with pytest.raises(Refused, match=r"1 compressed tars .*cannot be read by range; unpack them once"):
            find_shards(str(tmp_path), format=format)
    assert keys_of(find_shards(str(tmp_path), format="images")) == ["z.jpg"]


def test_a_file_named_in_full_may_have_any_name_when_the_format_is_given(tmp_path: Path) -> None:
    touch(tmp_path, "part-0")
    with pytest.raises(Refused, match="none is a tar"):
        find_shards(f"{tmp_path}/part-0")
    assert names_of(find_shards(f"{tmp_path}/part-0", format="webdataset")) == ["part-0"]


# ---- images


def test_image_files_are_frozen_in_groups(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n % 3}/{n:02d}.JPG" for n in range(10)))
    shards = find_shards(str(tmp_path), images_per_group=4)
    assert [len(shard.members or ()) for shard in shards] == [4, 4, 2]
    assert {shard.uri for shard in shards} == {str(tmp_path)}
    assert [shard.shard_id for shard in shards] == ["000000", "000001", "000002"]
    assert keys_of(shards) == sorted(keys_of(shards))
    for member in (shards[0].members or ())[:2]:
        assert member.uri == f"{tmp_path}/{member.key}"
        assert member.size == os.path.getsize(member.uri)
        assert member.etag is not None
    assert [count_images(shard) for shard in shards] == [4, 4, 2]


def test_keys_of_several_folders_are_relative_to_what_they_share(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/1.jpg", "in/b/1.jpg", "in/c/1.jpg")
    shards = find_shards([f"{tmp_path}/in/b", f"{tmp_path}/in/a"])
    assert (keys_of(shards), shards[0].uri) == (["a/1.jpg", "b/1.jpg"], f"{tmp_path}/in")
    assert keys_of(find_shards(f"{tmp_path}/in/a/1.jpg")) == ["1.jpg"]
    assert keys_of(find_shards(f"{tmp_path}/in/*/1.jpg")) == ["a/1.jpg", "b/1.jpg", "c/1.jpg"]


def test_a_name_that_is_no_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(Refused, match=r"caf\\udce9.jpg is not UTF-8; rename"):
        find_shards(str(tmp_path))


# ---- limit, and growing inputs


def test_limit_takes_the_first_images_of_groups(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n:02d}.jpg" for n in range(10)))
    shards = find_shards(str(tmp_path), images_per_group=4, limit=6)
    assert keys_of(shards) == [f"{n:02d}.jpg" for n in range(6)]
    assert shards[1].size == 12
    assert len(find_shards(str(tmp_path), images_per_group=4, limit=4)) == 1
    assert len(keys_of(find_shards(str(tmp_path), limit=99))) == 10


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, [1]), (3, [3]), (4, [None, 1]), (9, [None, None, 3]), (10, [None, None, None])],
)
def test_limit_counts_the_images_of_tars(tmp_path: Path, limit: int, expected: list[int | None]) -> None:
    shards = find_shards(str(write_tars(tmp_path, shards=3, images=3)), limit=limit)
    assert [shard.max_images for shard in shards] == expected
    ends = [list(read_units(shard))[-1] for shard in shards]
    assert sum(end.images for end in ends if isinstance(end, ShardEnd)) == min(limit, 9)


def test_limit_counts_parquet_rows_by_the_footers(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pq.write_table(pa.table({"image": [b"x"] * 5}), tmp_path / f"{name}.parquet")
    assert [s.max_images for s in find_shards(str(tmp_path), limit=7)] == [None, 2]


def test_limit_reads_no_image_of_a_tar(bucket: str, proxy: Proxy) -> None:
    storage.put(bucket + "/x.tar", tar_bytes({f"{n}.jpg": bytes(2 << 20) for n in range(5)}))
    before = storage.traffic().bytes_read
    (shard,) = find_shards(bucket, limit=4)
    assert shard.max_images == 4
    assert storage.traffic().bytes_read - before < 1 << 20


def test_what_an_earlier_plan_knows_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "t/1.tar", "t/2.tar", "i/1.jpg", "i/2.jpg")
    known = {f"{tmp_path}/t/1.tar", f"{tmp_path}/i/2.jpg"}
    (tar,) = find_shards(f"{tmp_path}/t", known=known, first_id=7)
    assert (tar.shard_id, storage.basename(tar.uri)) == ("000007", "2.tar")
    assert keys_of(find_shards(f"{tmp_path}/i", known=known)) == ["1.jpg"]
    assert find_shards(f"{tmp_path}/t/1.tar", known=known) == []


@pytest.mark.parametrize("pattern", [["x", "y"], ["{x,y}"], ["x/*.png", "y/*"], ["x", "y/1.png", "y/2.png"]])
def test_new_images_of_several_inputs_have_keys_like_those_planned_before(tmp_path: Path, pattern: list[str]) -> None:
    touch(tmp_path, "x/1.png", "y/1.png")
    uris, planned = [f"{tmp_path}/{each}" for each in pattern], {f"{tmp_path}/x/1.png", f"{tmp_path}/y/1.png"}
    assert keys_of(find_shards(uris)) == ["x/1.png", "y/1.png"]
    for folder in "xy":
        touch(tmp_path, f"{folder}/2.png")
        (shard,) = find_shards(uris, known=planned)
        assert (keys_of([shard]), shard.uri) == ([f"{folder}/2.png"], str(tmp_path))
        planned.add(f"{tmp_path}/{folder}/2.png")


def test_an_input_that_is_empty_yet_has_its_part_in_the_keys(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.png")
    for empty in ("y", "y/*.png", "y/1.png"):
        assert keys_of(find_shards([f"{tmp_path}/x", f"{tmp_path}/{empty}"])) == ["x/1.png"]
    touch(tmp_path, "y/1.png")
    known = {f"{tmp_path}/x/1.png"}
    for given in ("y", "y/*.png", "y/1.png"):
        assert keys_of(find_shards([f"{tmp_path}/x", f"{tmp_path}/{given}"], known=known)) == ["y/1.png"]


def test_a_parquet_input_without_images_is_refused_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(Refused, match="no column of images"):
        find_shards(str(tmp_path))
    with pytest.raises(Refused, match=r"no column 'img' \(input.image_column\)"):
        find_shards(str(tmp_path), image_column="img")


# ---- S3


def test_s3_folders_globs_and_braces(bucket: str, s3_server: S3Server) -> None:
    for name in ("in/a.tar", "in/b.tar", "in/sub/c.tar", "in-other/d.tar", "in/.hidden.tar", "in/x.json"):
        storage.put(f"{bucket}/{name}", b"x")
    assert names_of(find_shards(bucket + "/in")) == ["a.tar", "b.tar", "c.tar"]
    assert names_of(find_shards(bucket + "/in/")) == ["a.tar", "b.tar", "c.tar"]
    assert names_of(find_shards(bucket + "/in/*.tar")) == ["a.tar", "b.tar"]
    assert names_of(find_shards(bucket + "/**/[c-d].tar")) == ["d.tar", "c.tar"]
    assert names_of(find_shards(bucket + "/in/{a,b}.tar")) == ["a.tar", "b.tar"]
    assert names_of(find_shards(bucket)) == ["d.tar", "a.tar", "b.tar", "c.tar"]
    with pytest.raises(Refused, match="1 of the 2 objects"):
        find_shards(bucket + "/in/{a,z}.tar")


def test_a_long_brace_range_on_s3_is_one_listing(bucket: str, s3_server: S3Server) -> None:
    for number in range(30):
        storage.put(f"{bucket}/s-{number:03d}.tar", b"x")
    before = len(s3_server.requests())
    assert len(find_shards(bucket + "/s-{000..029}.tar")) == 30
    assert len(s3_server.requests()) - before == 1


def test_s3_that_cannot_be_read_is_refused_in_one_line(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"input cannot be read: .*bucket no-such-bucket-here does not exist"):
        find_shards("s3://no-such-bucket-here/in")
    proxy.answers = [("GET", 403, "AccessDenied")]
    with pytest.raises(Refused, match=r"input cannot be read: .*access denied"):
        find_shards(bucket)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(Refused, match="no usable AWS credentials"):
        find_shards(bucket)


def test_fsspec_inputs_are_read_like_any_other(tmp_path: Path) -> None:
    write_tars(tmp_path / "in", shards=2, images=3)
    local, through = find_shards(f"{tmp_path}/in"), find_shards(f"local://{tmp_path}/in")
    assert [shard.uri for shard in through] == [f"local://{shard.uri}" for shard in local]
    for a, b in zip(local, through, strict=True):
        (unit_a, end_a), (unit_b, end_b) = read_units(a), read_units(b)
        assert end_a == end_b
        assert [(i.key, i.data) for i in unit_a.items] == [(i.key, i.data) for i in unit_b.items]  # type: ignore[union-attr]


def test_what_is_refused_is_a_labeler_error_with_exit_code_2() -> None:
    assert issubclass(Refused, LabelerError)
    assert READER_VERSION == 3

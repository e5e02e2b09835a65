"""Inputs that an inventory lists: the same shards as by listing, in bounded memory, and refusals in one line."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler import storage
from labeler.config import Config
from labeler.digests import digest_of
from labeler.errors import Refused
from labeler.labeling.fingerprint import public_config
from labeler.labeling.resolve import plan_input, s3_rules
from labeler.prompts.grounding_dino import Prompts
from labeler.runs.create import NewRun, create_run, require_same_input
from labeler.runs.plan import PlannedShard, read_plan, with_members
from labeler.shards import Item, Unit, find_shards, read_units
from labeler.shards.groups import group_bytes, group_digest
from labeler.shards.streamed import plan_files, tables_of
from labeler.storage import ObjectInfo
from labeler.vocabulary import Vocabulary

KEYS = [
    "a.jpg",
    "b/c d+e.PNG",
    'b/\u00e9,"q".webp',
    "b/_DSC1.jpg",
    "_tmp/x.jpg",
    ".h/y.jpg",
    "notes.txt",
    "z.jpe",
    "100%.jpg",
]
IMAGES = {"a.jpg", "b/c d+e.PNG", 'b/\u00e9,"q".webp', "b/_DSC1.jpg", "z.jpe", "100%.jpg"}


@pytest.fixture
def photos(bucket: str) -> str:
    for key in KEYS:
        storage.put(f"{bucket}/photos/{key}", key.encode())
    storage.put(f"{bucket}/other/o.jpg", b"o")
    return f"{bucket}/photos"


def rows_of(photos: str) -> list[dict[str, Any]]:
    name = photos.removeprefix("s3://").partition("/")[0]
    return [
        {"bucket": name, "key": info.uri.removeprefix(f"s3://{name}/"), "size": info.size, "etag": info.etag}
        for info in storage.list_objects(f"s3://{name}")
    ]


def manifest(photos: str, rows: Sequence[Sequence[object]], schema: str, *, parts: int = 1) -> str:
    """An S3 Inventory as CSV: every value quoted, keys URL-encoded, no header line."""
    bucket = photos.removeprefix("s3://").partition("/")[0]
    home = f"inventories/{len(rows)}-{parts}"
    files = []
    for part in range(parts):
        text = "".join(",".join(f'"{value}"' for value in row) + "\n" for row in rows[part::parts])
        storage.put(f"s3://{bucket}/{home}/data/{part}.csv.gz", gzip.compress(text.encode()))
        files.append({"key": f"{home}/data/{part}.csv.gz", "size": 1, "MD5checksum": "0"})
    body = {
        "sourceBucket": bucket, "destinationBucket": f"arn:aws:s3:::{bucket}", "version": "2016-11-30",
        "fileFormat": "CSV", "fileSchema": schema, "files": files,
    }  # fmt: skip
    storage.put(f"s3://{bucket}/{home}/2026-01-01T00-00Z/manifest.json", json.dumps(body).encode())
    return f"s3://{bucket}/{home}/2026-01-01T00-00Z/manifest.json"


def s3_inventory(photos: str) -> str:
    rows = [(row["bucket"], quote_plus(row["key"]), row["size"], f'""{row["etag"]}""') for row in rows_of(photos)]
    return manifest(photos, rows, "Bucket, Key, Size, ETag")


def parquet_inventory(photos: str, rows: list[dict[str, Any]] | None = None) -> str:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows_of(photos) if rows is None else rows), sink)
    uri = f"{photos.rpartition('/')[0]}/inventory.parquet"
    storage.put(uri, bytes(sink.getvalue()))
    return uri


def own_csv(photos: str, text: str) -> str:
    uri = f"{photos.rpartition('/')[0]}/mine.csv"
    storage.put(uri, text.encode())
    return uri


def members(uri: str | list[str], **settings: Any) -> list[tuple[str, str, int | None, str | None]]:
    shards = find_shards(uri, **settings)
    assert [shard.shard_id for shard in shards] == [f"{i:06d}" for i in range(len(shards))]
    return [(m.key, m.uri, m.size, m.etag) for shard in shards for m in shard.members or ()]


@pytest.mark.parametrize("make", [s3_inventory, parquet_inventory])
def test_an_inventory_gives_what_a_listing_gives(photos: str, make: Any) -> None:
    listed, counts = Counter[str](), Counter[str]()
    there = members(photos, counts=listed)
    found = members(photos, inventory=[make(photos)], counts=counts, images_per_group=2)
    assert sorted(found) == sorted(there)
    assert {key for key, *_ in found} == IMAGES
    assert counts == listed == {"hidden": 2, "txt": 1}
    shards = find_shards(photos, inventory=[make(photos)], images_per_group=2)
    assert [len(shard.members or ()) for shard in shards] == [2, 2, 2]
    assert [shard.size for shard in shards] == [sum(m.size or 0 for m in shard.members or ()) for shard in shards]


def test_a_folder_of_image_files_on_s3_is_planned_as_it_is_listed_whole(photos: str, monkeypatch: Any) -> None:
    counts, whole_counts = Counter[str](), Counter[str]()
    streamed = find_shards(photos, images_per_group=4, counts=counts)
    monkeypatch.setattr("labeler.shards.find_streamed._is_s3_folder", lambda uri: False)
    whole = find_shards(photos, images_per_group=4, counts=whole_counts)
    assert [tuple(shard.members or ()) for shard in streamed] == [tuple(shard.members or ()) for shard in whole]
    assert [(s.uri, s.size, s.format, s.etag) for s in streamed] == [(s.uri, s.size, s.format, s.etag) for s in whole]
    assert counts == whole_counts
    for mine, theirs in zip(streamed, whole, strict=True):
        data = group_bytes(theirs.members or ())
        assert group_bytes(mine.members or ()) == data
        assert group_digest(mine.members or ()) == digest_of(data)


@pytest.mark.parametrize("beside", ["one.tar", "rows.parquet", "0123456789abcdef"])
def test_a_folder_on_s3_with_files_of_other_kinds_is_listed_whole(photos: str, beside: str, monkeypatch: Any) -> None:
    storage.put(f"{photos}/{beside}", b"\xff\xd8\xff\xe0" + bytes(40))

    def outcome() -> object:
        try:
            return members(photos)
        except Refused as refusal:
            return str(refusal)

    found = outcome()
    monkeypatch.setattr("labeler.shards.find_streamed._is_s3_folder", lambda uri: False)
    assert found == outcome()
    assert "mixes" in str(found) or beside in str(found)


def test_old_versions_deleted_objects_and_doubles_are_left_out(photos: str) -> None:
    name = photos.removeprefix("s3://").partition("/")[0]
    rows = [
        (name, "photos/a.jpg", "v2", "true", "false", 5),
        (name, "photos/a.jpg", "v1", "false", "false", 4),
        (name, "photos/gone.jpg", "v2", "true", "true", ""),
        (name, "photos/gone.jpg", "v1", "false", "false", 4),
        (name, "photos/z.jpe", "v1", "true", "false", 5),
        (name, "photos/a.jpg", "v2", "true", "false", 5),
        (name, "photos/folder/", "v2", "true", "false", 0),
    ]
    found = members(photos, inventory=[manifest(photos, rows, "Bucket,Key,VersionId,IsLatest,IsDeleteMarker,Size")])
    assert [(key, size) for key, _, size, _ in found] == [("a.jpg", 5), ("z.jpe", 5)]


def test_a_table_of_ones_own_keeps_its_order_and_its_keys(photos: str) -> None:
    name = photos.removeprefix("s3://").partition("/")[0]
    lines = [f"photos/{key},7,{name}" for key in ("z.jpe", "0007.jpg", "a%20b.jpg")]
    mine = own_csv(photos, "\n".join(["Key,width,BUCKET", *lines, ""]))
    assert members(photos, inventory=[mine]) == [
        (key, f"{photos}/{key}", None, None) for key in ("z.jpe", "0007.jpg", "a%20b.jpg")
    ]
    numbers = own_csv(photos, f"bucket,key\n{name},0007\n{name},0008\n")
    assert [key for key, *_ in members(f"s3://{name}", inventory=[numbers], format="images")] == ["0007", "0008"]


def test_a_limit_takes_the_first_and_extending_only_the_new_ones(photos: str) -> None:
    inventory = [parquet_inventory(photos)]
    everything = members(photos, inventory=inventory)
    assert members(photos, inventory=inventory, limit=3) == everything[:3]
    known = [uri for _, uri, _, _ in everything[:4]]
    assert members(photos, inventory=inventory, known=known) == everything[4:]
    assert members(photos, inventory=inventory, known=[uri for _, uri, _, _ in everything]) == []


def test_tars_in_an_inventory_are_shards(bucket: str) -> None:
    for key in ("in/1.tar", "in/2.tar", "in/x.jpg", "in/_old/3.tar"):
        storage.put(f"{bucket}/{key}", b"1")
    inventory, counts = [parquet_inventory(f"{bucket}/in")], Counter[str]()
    found = find_shards(f"{bucket}/in", inventory=inventory, format="webdataset", counts=counts)
    assert [(s.uri, s.name, s.format) for s in found] == [
        (f"{bucket}/in/{name}", name, "webdataset") for name in ("1.tar", "2.tar")
    ]
    with pytest.raises(Refused, match=r"mixes 1 image files and 2 tars or Parquet files; set input.format"):
        find_shards(f"{bucket}/in", inventory=inventory)


def test_several_folders_of_a_bucket_are_each_below_their_own(photos: str) -> None:
    bucket = photos.rpartition("/")[0]
    found = members([photos, f"{bucket}/other"], inventory=[parquet_inventory(photos)])
    assert {key for key, *_ in found} == {*(f"photos/{key}" for key in IMAGES), "other/o.jpg"}


def bad_manifest(photos: str, body: object) -> str:
    uri = f"{photos.rpartition('/')[0]}/bad/manifest.json"
    storage.put(uri, json.dumps(body).encode())
    return uri


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: own_csv(p, "name,key\nb,a.jpg\n"), "has no column bucket, it has name, key"),
        (lambda p: own_csv(p, "uri\ns3://b/a.jpg\n"), "has no column bucket and no column key"),
        (lambda p: own_csv(p, ""), "cannot be read"),
        (lambda p: own_csv(p, "bucket,key\nb\n"), "cannot be read"),
        (lambda p: own_csv(p, "bucket,key\nelsewhere,a.jpg\n"), "lists no image below"),
        (lambda p: parquet_inventory(p, [{"bucket": "b", "key": None}]), "a row without bucket or key"),
        (lambda p: parquet_inventory(p, [{"bucket": "b", "path": "x"}]), "has no column key"),
        (lambda p: f"{p}/notes.txt", "cannot be read"),
        (lambda p: f"{p}/absent.csv", "is missing or empty"),
        (lambda p: bad_manifest(p, {"files": 3}), "not the manifest of an S3 Inventory"),
        (lambda p: bad_manifest(p, [1]), "not the manifest of an S3 Inventory"),
        (
            lambda p: bad_manifest(
                p, {"fileFormat": "ORC", "fileSchema": "", "files": [], "destinationBucket": "arn:aws:s3:::b"}
            ),
            "is in ORC",
        ),
        (
            lambda p: bad_manifest(
                p,
                {"fileFormat": "CSV", "fileSchema": "Bucket, Key", "files": [{"key": "x"}], "destinationBucket": "b"},
            ),
            "names x, which is missing",
        ),
    ],
)  # fmt: skip
def test_a_bad_inventory_is_one_line(photos: str, make: Any, why: str) -> None:
    with pytest.raises(Refused, match=why) as refusal:
        find_shards(photos, inventory=[make(photos)])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("uri", ["/data/photos", "s3://b/*.jpg", "s3://b/{a,b}", "https://host/x"])
def test_an_inventory_goes_with_buckets_and_their_folders_alone(uri: str) -> None:
    with pytest.raises(Refused, match=r"with input\.inventory it names a bucket"):
        find_shards(uri, inventory=["s3://b/inventory.csv"])


def test_files_without_an_extension_are_images_where_the_format_says_so(bucket: str) -> None:
    for key in ("in/01", "in/02"):
        storage.put(f"{bucket}/{key}", b"1")
    inventory = [parquet_inventory(f"{bucket}/in")]
    with pytest.raises(Refused, match=r"no extension 2; files without .* are images with input\.format=images"):
        find_shards(f"{bucket}/in", inventory=inventory)
    assert [key for key, *_ in members(f"{bucket}/in", inventory=inventory, format="images")] == ["01", "02"]


def test_equal_hashes_of_different_files_lose_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.hash", lambda uri: 1)
    objects = [ObjectInfo(f"s3://b/{name}.jpg", 1, None) for name in "abacab"]
    found = plan_files(lambda: tables_of(objects), ["s3://b"], "s3://b", 2)
    assert [[m.key for m in group.members or ()] for group in found.groups] == [["a.jpg", "b.jpg"], ["c.jpg"]]
    assert found.images == 3


def test_a_run_of_an_inventory_reads_the_images_it_lists(photos: str) -> None:
    bucket = photos.rpartition("/")[0]
    config = config_of_inventory(photos, s3_inventory(photos))
    plan = plan_input(config)
    words = Vocabulary.load([{"id": 1, "name": "cat"}])
    new = NewRun({"model": "x"}, public_config(config), {}, words, Prompts((), frozenset(), 256), plan)
    run = create_run(f"{bucket}/run", new)
    read = read_plan(run)
    assert [planned.images for planned in read] == [4, 2]
    assert {item.key: item.data for item in read_all(read, run.uri)} == {key: key.encode() for key in IMAGES}
    assert run.manifest.config["input"]["inventory"] == [config.input.inventory]
    tomorrow = config_of_inventory(photos, parquet_inventory(photos))  # what is planned is planned
    require_same_input(run, public_config(tomorrow)["input"])
    storage.put(f"{bucket}/photos/a.jpg", b"other")
    (changed,) = [item for item in read_all(read, run.uri) if item.key == "a.jpg"]
    assert (changed.data, changed.error) == (None, "changed since it was planned")


def config_of_inventory(photos: str, inventory: str) -> Config:
    return Config.model_validate(
        {
            "input": {"uri": photos, "inventory": inventory, "images_per_shard": 4},
            "output": f"{photos}-run",
            "vocabulary": ["cat"],
        }
    )


def read_all(plan: Sequence[PlannedShard], run_uri: str) -> list[Item]:
    units = [unit for planned in plan for unit in read_units(with_members(planned.shard, run_uri))]
    return [item for unit in units if isinstance(unit, Unit) for item in unit.items]


def test_a_few_strange_files_do_not_undo_the_streaming(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(f"{photos}/LICENSE", b"text")
    storage.put(f"{photos}/metadata.parquet", b"1")
    monkeypatch.setattr("labeler.shards.find.list_all", lambda *_: pytest.fail("listed whole"))
    counts = Counter[str]()
    assert {key for key, *_ in members(photos, format="images", counts=counts)} == IMAGES
    assert counts == {"hidden": 2, "txt": 1, "no extension": 1, "parquet": 1}


def test_small_groups_are_cut_from_many_tables() -> None:
    files = [ObjectInfo(f"s3://b/{number:06d}.jpg", 1, None) for number in range(10_000)]
    found = plan_files(lambda: tables_of(files), ["s3://b"], "s3://b", 16)
    assert [m.key for group in found.groups for m in group.members or ()] == [f"{n:06d}.jpg" for n in range(10_000)]
    assert {len(group.members or ()) for group in found.groups} == {16}


@pytest.mark.parametrize("size", ["3.0", "1.2345678901e+10", "12", "", "unknown"])
def test_sizes_as_other_tools_write_them(photos: str, size: str) -> None:
    name = photos.removeprefix("s3://").partition("/")[0]
    mine = own_csv(photos, f"bucket,key,size\n{name},photos/a.jpg,{size}\n")
    expected = {"3.0": 3, "1.2345678901e+10": 12345678901, "12": 12}.get(size)
    assert [found for _, _, found, _ in members(photos, inventory=[mine])] == [expected]


def test_only_what_is_explicitly_old_or_deleted_is_left_out(photos: str) -> None:
    name = photos.removeprefix("s3://").partition("/")[0]
    said = [(None, None), (True, False), (True, None), (False, False), (True, True)]
    rows = [
        {"bucket": name, "key": f"photos/{number}.jpg", "is_latest": latest, "is_delete_marker": deleted}
        for number, (latest, deleted) in enumerate(said)
    ]
    found = members(photos, inventory=[parquet_inventory(photos, rows)])
    assert [key for key, *_ in found] == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_copy_of_an_inventory_is_read_beside_its_manifest(photos: str) -> None:
    bucket = photos.rpartition("/")[0]
    storage.put(f"{bucket}/copy/0.csv", f'"{bucket[5:]}","photos/a.jpg"\n'.encode())
    body = {
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key",
        "files": [{"key": "far/away/0.csv"}],
        "destinationBucket": "arn:aws:s3:::a-bucket-that-is-not-there",
    }
    storage.put(f"{bucket}/copy/manifest.json", json.dumps(body).encode())
    assert [key for key, *_ in members(photos, inventory=[f"{bucket}/copy"])] == ["a.jpg"]


def test_an_inventory_of_a_public_bucket_lies_in_a_bucket_of_ones_own() -> None:
    config = config_of_inventory("s3://public/photos", "s3://mine/inventory.csv")
    s3 = config.input.s3.model_copy(update={"unsigned": True})
    config = config.model_copy(update={"input": config.input.model_copy(update={"s3": s3})})
    rules = dict(s3_rules(config).rules)
    assert rules["s3://public"].unsigned
    assert not rules["s3://mine"].unsigned
    beside = config.input.model_copy(update={"inventory": "s3://public/inventory.csv"})
    assert "s3://public/inventory.csv" not in dict(s3_rules(config.model_copy(update={"input": beside})).rules)


def test_a_machine_without_room_for_the_list_is_told_so(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_folder() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", no_folder)
    with pytest.raises(Refused, match="set TMPDIR to a folder with more"):
        members(photos)

"""`labeler forget` over runs written by the real writer; the pipeline's side is in test_pipeline."""

from __future__ import annotations

import hashlib
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from labeler.cli import main
from labeler.errors import Refused, StorageError
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.runs import Run, open_run, read_snapshot
from labeler.runs.erasure import erase as forget_module
from labeler.runs.erasure.erase import forget
from labeler.runs.erasure.excluded import Excluded, alike_digest, load_excluded, name_digest, read_excluded
from labeler.shards import Item, Unit
from tests.derived_runs import derive
from tests.label_runs import row, write_run

FOUND = Detections.of([[1, 2, 30, 40]], [0.5], [3])
SPELLINGS = (*(unicodedata.normalize(form, "bär/é.jpg") for form in ("NFC", "NFD")), "bär\\é.jpg")
URIS = ("s3://b/in/part-0.tar", "s3://b/in/part-1.tar")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two tars of six in units of three; both have keys 0.jpg to 5.jpg."""
    units = {
        (shard, unit): [row(3 * unit + i, FOUND, shard=shard, kept={"tag": "t"}) for i in range(3)]
        for shard in (0, 1)
        for unit in (0, 1)
    }
    return write_run(tmp_path / "run", units, uris=URIS, keep=["tag"])


def unit_rows(*missing: int) -> list[Row]:
    """Shard 0's first unit; images that could not be read have no digest and no labels."""
    lost: dict[str, Any] = {"digest": None, "status": "read_error", "error": "truncated"}
    return [row(i, **lost) if i in missing else row(i, FOUND, kept={"tag": "t"}) for i in range(3)]


def _killed(*_: object) -> bool:
    raise MemoryError


def rows_of(run: Run) -> list[dict[str, object]]:
    return [r for table in read_snapshot(run).tables() for r in table.to_pylist()]


def removed(run: Run) -> list[tuple[object, object]]:
    return [(r["shard_id"], r["index"]) for r in rows_of(run) if r["status"] == "removed"]


def test_nothing_but_its_place_is_left_of_a_forgotten_image(run: Run) -> None:
    before = rows_of(run)
    outcome = forget(run, ["part-1.tar/4.jpg"])
    assert (outcome.images, outcome.units, outcome.unknown) == (1, 1, [])
    after = rows_of(run)
    (gone,) = [r for r in after if r["status"] == "removed"]
    kept = {"image_key": "4.jpg", "shard_id": "000001", "index": 4, "uri": URIS[1], "status": "removed"}
    assert gone == dict.fromkeys(gone) | {"detections": []} | kept
    assert [r for r in after if r != gone] == [r for r in before if (r["shard_id"], r["index"]) != ("000001", 4)]
    assert '"removed": 1' in Path(run.path("report.json")).read_text()


def test_a_digest_names_every_copy_and_a_key_only_one_image(run: Run) -> None:
    digest = f"{1_000_002:032x}"
    forget(run, [digest])
    assert removed(run) == [("000001", 2)]
    with pytest.raises(Refused, match="names several images") as refused:
        forget(run, ["part-0.tar/1.jpg", "3.jpg"])
    assert refused.value.problems == ("3.jpg: 2 images",)
    assert removed(run) == [("000001", 2)], "refused: nothing was changed"


def test_doing_it_again_changes_nothing(run: Run) -> None:
    forget(run, ["part-0.tar/1.jpg"])
    unit = Path(run.path("labels/000000/000000.parquet"))
    written, lists = unit.stat().st_mtime_ns, sorted(Path(run.path("excluded")).iterdir())
    outcome = forget(run, ["part-0.tar/1.jpg"])
    assert (outcome.images, outcome.units) == (1, 0)
    assert unit.stat().st_mtime_ns == written
    assert sorted(Path(run.path("excluded")).iterdir()) == lists


def test_the_list_keeps_no_name_and_covers_the_bytes_under_any_other(run: Run) -> None:
    forget(run, ["part-0.tar/1.jpg", "part-9.tar/later.jpg"])
    (stored,) = Path(run.path("excluded")).iterdir()
    assert "jpg" not in stored.read_text()
    spelled = ("part-0.tar/1.jpg", "part-9.tar/later.jpg")
    every = {*map(name_digest, (*spelled, f"{1:032x}")), *map(alike_digest, spelled)}
    assert read_excluded(run) == Excluded.of_digests(every)
    assert load_excluded([run.uri]) == read_excluded(run)


def test_excluded_images_of_a_unit_leave_only_their_places() -> None:
    data = b"the very same bytes"
    same = hashlib.blake2b(data, digest_size=16).hexdigest()
    excluded = Excluded.of_digests(map(name_digest, (same, "a.tar/2.jpg")))
    unit = Unit("000000", 0, tuple(Item(f"{i}.jpg", i, "u", 0, 9, data if i == 1 else b"%d" % i) for i in range(4)))
    left = excluded.without(unit, "a.tar/")
    assert [item.removed for item in left.items] == [False, True, True, False]
    assert left.items[2] == Item("2.jpg", 2, "u", None, None, None, removed=True)
    assert excluded.without(unit, "b.tar/").items[2].data == b"2", "another shard's image of that key"
    assert Excluded().without(unit, "a.tar/") is unit


def test_killed_between_two_runs_a_repeat_by_digest_forgets_the_image_in_both(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = derive(run, tmp_path / "again", {(0, 0): unit_rows()})
    third = derive(again, tmp_path / "third", {(0, 0): unit_rows()})
    digest, real, done = f"{1:032x}", forget_module._rewrite_unit, []

    def one_and_no_more(one: Run, *job: Any) -> bool:
        if done:
            _killed()
        done.append(one.uri)
        return real(one, *job)

    with monkeypatch.context() as patched:
        patched.setattr("labeler.runs.erasure.erase._rewrite_unit", one_and_no_more)
        with pytest.raises(MemoryError):
            forget(run, [digest])
    assert done == [third.uri], "what derives from others is first"
    outcome = forget(run, [digest])
    assert (outcome.images, outcome.units, outcome.unknown) == (1, 2, [])
    assert outcome.runs == [run.uri, again.uri, third.uri]
    for one in (run, again, third):
        assert removed(one) == [("000000", 1)]
        assert '"removed": 1' in Path(one.path("report.json")).read_text()


@pytest.mark.parametrize("name", [f"{1:032x}", "part-0.tar/1.jpg"])
def test_a_digest_that_only_a_retry_has_seen_names_the_image(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", {(0, 0): unit_rows(1)}, keep=["tag"])
    again = derive(run, tmp_path / "again", {(0, 0): unit_rows()})
    outcome = forget(run, [name])
    assert (outcome.images, outcome.units, outcome.unknown) == (1, 2, [])
    assert removed(run) == removed(again) == [("000000", 1)]
    spelled = {alike_digest(name)} if name.endswith("jpg") else set()
    assert read_excluded(run) == Excluded.of_digests({*map(name_digest, (f"{1:032x}", "part-0.tar/1.jpg")), *spelled})


def test_two_at_once_on_one_unit_both_forget_their_image(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second runs from beginning to end after the first has read the unit and before it writes it."""
    real, nested = forget_module.table_to_parquet, []

    def meanwhile(*arguments: Any) -> bytes:
        if not nested:
            nested.append(True)
            assert forget(run, ["part-0.tar/2.jpg"]).units == 1
        return real(*arguments)

    monkeypatch.setattr("labeler.runs.erasure.erase.table_to_parquet", meanwhile)
    assert forget(run, ["part-0.tar/1.jpg"]).units == 1
    assert removed(run) == [("000000", 1), ("000000", 2)]


def test_images_that_keep_coming_back_are_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.runs.erasure.erase.storage.put", lambda uri, data: None)
    with pytest.raises(StorageError, match=r"labels/000000/000000.parquet: images .* keep coming back"):
        forget(run, ["part-0.tar/1.jpg"])


def test_a_derived_run_that_was_moved_is_named_and_reached_where_it_is_now(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    derive(run, tmp_path / "again", {(0, 0): unit_rows()})
    (tmp_path / "again").rename(tmp_path / "moved")
    (tmp_path / "names.txt").write_text(f"{1:032x}\n")
    assert main(["forget", run.uri, "--keys", str(tmp_path / "names.txt")]) == 0
    said = f"derived run {tmp_path / 'again'} (there is no run in that folder any more)"
    assert f"not reached, forget in it where it lies now: {said}\n" in capsys.readouterr().out
    moved = open_run(str(tmp_path / "moved"))
    assert moved is not None
    assert removed(moved) == []
    outcome = forget(moved, [f"{1:032x}"])
    assert (outcome.images, outcome.units, outcome.unreached) == (1, 1, {})
    assert removed(moved) == removed(run) == [("000000", 1)]


def test_another_run_in_a_derived_runs_folder_is_left_alone(run: Run, tmp_path: Path) -> None:
    derive(run, tmp_path / "again", {(0, 0): unit_rows()})
    shutil.rmtree(tmp_path / "again")
    other = write_run(tmp_path / "again", {(0, 0): unit_rows()}, keep=["tag"])
    outcome = forget(run, ["part-0.tar/1.jpg"])
    assert outcome.unreached == {other.uri: "that folder holds another run now"}
    assert (removed(run), removed(other)) == ([("000000", 1)], [])


def test_a_derived_run_that_misses_its_parent_is_named_with_the_reason(run: Run, tmp_path: Path) -> None:
    derive(run, tmp_path / "again", {(0, 0): unit_rows()})
    Path(run.uri).rename(tmp_path / "moved")
    moved = open_run(str(tmp_path / "moved"))
    assert moved is not None
    outcome = forget(moved, ["part-0.tar/1.jpg"])
    (why,) = outcome.unreached.values()
    assert "derives from run" in why
    assert removed(moved) == [("000000", 1)]


def test_what_was_made_from_the_run_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", run.uri, "--to", "coco"]) == 0
    (tmp_path / "names.txt").write_text("part-0.tar/1.jpg\r\npart-0.tar/77.jpg\n\n")
    capsys.readouterr()
    assert main(["forget", run.uri, "--keys", str(tmp_path / "names.txt")]) == 0
    printed = capsys.readouterr().out
    assert "removed: 1 image; 1 unit file rewritten" in printed
    assert "not in the run: 1 name, kept out of what is labeled from now on:\n  part-0.tar/77.jpg" in printed
    assert f"may still show removed images, re-create it: {run.uri}/exports/coco.json" in printed
    assert "older versions that the bucket" in printed


def test_an_export_of_before_is_not_taken_for_one_of_now(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", run.uri, "--to", "parquet", "--output"]
    assert main([*command, str(tmp_path / "before")]) == 0
    (tmp_path / "names.txt").write_text("part-0.tar/1.jpg\n")
    assert main(["forget", run.uri, "--keys", str(tmp_path / "names.txt")]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "before")]) == 2
    refused = "holds an export of something else (another images_forgotten, units_bytes); choose another --output"
    assert refused in capsys.readouterr().err
    assert main([*command, str(tmp_path / "after")]) == 0


def test_an_export_from_between_two_tries_to_forget_is_not_taken_for_one_of_now(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is written before the units are; an export in between still has the image."""
    export = ["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "between")]
    with monkeypatch.context() as patched:
        patched.setattr("labeler.runs.erasure.erase._rewrite_unit", _killed)
        with pytest.raises(MemoryError):
            forget(run, ["part-0.tar/1.jpg"])
    assert main(export) == 0
    assert main(export) == 0, "nothing has changed"
    assert forget(run, ["part-0.tar/1.jpg"]).units == 1
    capsys.readouterr()
    assert main(export) == 2
    assert "(another units_bytes); choose another --output, or delete it first" in capsys.readouterr().err


def test_a_run_that_was_copied_is_the_same_to_an_export(run: Run, tmp_path: Path) -> None:
    export = ["--to", "parquet", "--output", str(tmp_path / "out")]
    assert main(["export", run.uri, *export]) == 0
    shutil.copytree(run.uri, tmp_path / "copy")
    assert main(["export", str(tmp_path / "copy"), *export]) == 0


def test_what_was_made_elsewhere_is_named_while_it_is_there(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("part-0.tar/1.jpg\n")
    file, folder, page = tmp_path / "x.json", tmp_path / "tables", tmp_path / "r.html"
    assert main(["export", run.uri, "--to", "coco", "--output", str(file)]) == 0
    assert main(["export", run.uri, "--to", "parquet", "--output", str(folder)]) == 0
    assert main(["report", run.uri, "--output", str(page)]) == 0
    file.unlink()
    capsys.readouterr()
    assert main(["forget", run.uri, "--keys", str(tmp_path / "names.txt")]) == 0
    printed = capsys.readouterr().out
    assert f"may still show removed images, re-create it: {folder}\n" in printed
    assert f"may still show removed images, re-create it: {page}\n" in printed
    assert str(file) not in printed


def test_a_folder_that_an_export_was_refused_is_not_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_text("!")
    before = sorted(Path(run.uri).rglob("*"))
    for refused in ([], ["--where", "error('x')"], ["--split", "a=1", "--group-by", "x"]):
        assert main(["export", run.uri, "--to", "parquet", "--output", str(tmp_path / "mine"), *refused]) == 2
    assert sorted(Path(run.uri).rglob("*")) == before, "refused: nothing is written"
    assert forget(run, ["part-0.tar/1.jpg"]).untouched == []


def test_a_run_that_cannot_be_written_to_is_exported_all_the_same(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(run.path("made")).write_text("no folder can be made here")
    assert main(["export", run.uri, "--to", "coco", "--output", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "x.json").exists()
    assert f"labeler forget will not name {tmp_path / 'x.json'}" in capsys.readouterr().err


def test_lists_that_are_none_are_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("empty.txt", "names no image"),
        ("bytes.txt", "not valid UTF-8"),
        ("none.txt", "cannot be read"),
    ):
        assert main(["forget", run.uri, "--keys", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    Path(run.path("excluded")).mkdir()
    Path(run.path("excluded/x.txt")).write_text("part-0.tar/1.jpg")
    with pytest.raises(Refused, match="not a list that labeler forget wrote"):
        read_excluded(run)


@pytest.mark.parametrize("stored", SPELLINGS)
def test_an_image_is_forgotten_by_any_spelling_of_its_name_and_stays_so_under_any(tmp_path: Path, stored: str) -> None:
    for number, name in enumerate(SPELLINGS):
        run = write_run(tmp_path / str(number), {(0, 0): [row(0, image_key=stored), row(1)]})
        outcome = forget(run, [f"part-0.tar/{name}"])
        assert (outcome.images, outcome.unknown, removed(run)) == (1, [], [("000000", 0)])
        assert [r["image_key"] for r in rows_of(run)] == [stored, "1.jpg"], "the stored name keeps its spelling"
        for later in SPELLINGS:
            unit = Unit("000000", 1, (Item(later, 0, "u", 0, 9, b"x"),))
            assert read_excluded(run).without(unit, "part-0.tar/").items[0].removed


def test_another_image_with_another_spelling_of_the_name_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(i, image_key=key) for i, key in enumerate(SPELLINGS[:2])]})
    assert forget(run, [f"part-0.tar/{SPELLINGS[1]}"]).images == 1
    assert removed(run) == [("000000", 1)]
    with pytest.raises(Refused, match="differ only in how they are spelled"):
        forget(run, [SPELLINGS[2]])
    assert removed(run) == [("000000", 1)]


def test_a_list_of_a_former_version_goes_on_to_hold_its_spelling() -> None:
    former = Excluded.of_digests({name_digest("a.tar/x\\y.jpg")})
    unit = Unit("000000", 0, tuple(Item(key, i, "u", 0, 9, b"x") for i, key in enumerate(("x\\y.jpg", "x/y.jpg"))))
    assert [item.removed for item in former.without(unit, "a.tar/").items] == [True, False]


def test_names_that_are_all_wrong_are_refused_and_kept_only_on_request(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path(run.uri).rglob("*"))
    (tmp_path / "names.txt").write_text("part-7.tar/1.jpg\n77.jpg\n")
    command = ["forget", run.uri, "--keys", str(tmp_path / "names.txt")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "none of the 2 names is in run" in said
    assert "--future" in said
    assert sorted(Path(run.uri).rglob("*")) == before
    assert main([*command, "--future"]) == 0
    assert "not in the run: 2 names, kept out of what is labeled from now on:" in capsys.readouterr().out
    assert main(command) == 0, "they have been kept out since"
    assert read_excluded(run).has("part-7.tar\\1.jpg")


def test_a_digest_that_was_forgotten_is_not_taken_for_a_mistake(run: Run) -> None:
    assert forget(run, [f"{1:032x}"]).images == 1
    assert forget(run, [f"{1:032x}"]).images == 0
    with pytest.raises(Refused, match="none of the 1 names"):
        forget(run, ["f" * 32])


def test_a_run_without_lists_excludes_nothing(run: Run) -> None:
    assert read_excluded(run) == Excluded()
    assert open_run(run.uri) == run

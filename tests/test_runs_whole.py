"""The files of a run as a set: what is missing, copied, or in another's place is one line, never other rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from labeler.cli import main
from labeler.runs import Run, open_run, read_plan, read_snapshot
from labeler.runs.create import extend_plan
from labeler.runs.plan import PLAN, PlannedShard
from labeler.shards import Shard
from labeler.storage import StorageError
from tests.label_runs import row, write_run

IMAGES = 12  # of each shard, in units of four


def whole_run(folder: Path, shards: int = 3, **options: object) -> Run:
    rows = {shard: [row(i, shard=shard) for i in range(IMAGES)] for shard in range(shards)}
    units = {(shard, unit): rows[shard][4 * unit : 4 * unit + 4] for shard in rows for unit in range(3)}
    uris = [f"s3://b/in/{i}.tar" for i in range(shards)]
    return write_run(folder, units, uris=uris, **options)  # type: ignore[arg-type]


def extended(run: Run, *names: str) -> Run:
    for name in names:
        at = len(read_plan(run))
        extend_plan(run, [PlannedShard(Shard(f"{at:06d}", f"s3://b/in/{name}", 1, "f", "webdataset"), None)])
    return run


def rows_of(run: Run) -> list[tuple[str, int]]:
    tables = read_snapshot(run).tables()
    return [(r["shard_id"], r["index"]) for t in tables for r in t.select(["shard_id", "index"]).to_pylist()]


def commands_refuse(folder: Path, capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Every reading command ends with 2 and one line."""
    keys = folder.parent / "keys.txt"
    keys.write_text("a.jpg\n")
    commands = (
        ["export", str(folder), "--to", "coco", "--output", str(folder.parent / "coco.json")],
        ["report", str(folder), "--output", str(folder.parent / "report.html")],
        ["forget", str(folder), "--keys", str(keys)],
    )
    for command in commands:
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1


def test_a_whole_run_is_read(tmp_path: Path) -> None:
    run = extended(whole_run(tmp_path / "run"), "a.tar", "b.tar")
    assert rows_of(run) == [(f"{shard:06d}", index) for shard in range(3) for index in range(IMAGES)]
    assert len(read_plan(run)) == 5


# ---- plan files


def test_a_plan_that_is_gone_is_not_an_empty_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole_run(tmp_path / "run")
    (tmp_path / "run/plan/00000.parquet").unlink()
    commands_refuse(tmp_path / "run", capsys, "has no plan; restore its plan/ folder")
    assert main(["status", str(tmp_path / "run")]) == 2


@pytest.mark.parametrize("gone", [0, 1])
def test_a_generation_that_is_gone_is_named(tmp_path: Path, gone: int) -> None:
    run = extended(whole_run(tmp_path / "run"), "a.tar", "b.tar")
    (tmp_path / f"run/plan/{gone:05d}.parquet").unlink()
    with pytest.raises(StorageError, match=f"{gone:05d}.parquet is missing before it; restore the plan/ folder"):
        read_plan(run)


def test_a_copied_generation_is_not_planned_twice(tmp_path: Path) -> None:
    run = extended(whole_run(tmp_path / "run"), "a.tar")
    shutil.copy(tmp_path / "run/plan/00000.parquet", tmp_path / "run/plan/00002.parquet")
    with pytest.raises(StorageError, match=r"00002\.parquet: it has shard 000000 where shard 000004 follows"):
        read_plan(run)


def test_generations_that_are_not_each_others_are_named(tmp_path: Path) -> None:
    """Of another run that grew at the same time: the shard ids follow, the digest of the generation before does not."""
    run = extended(whole_run(tmp_path / "run"), "a.tar", "b.tar")
    other = extended(whole_run(tmp_path / "other"), "x.tar", "y.tar")
    shutil.copy(f"{other.uri}/plan/00002.parquet", f"{run.uri}/plan/00002.parquet")
    with pytest.raises(StorageError, match=r"00002\.parquet: it does not follow the plan file before it"):
        read_plan(run)
    shutil.copy(f"{whole_run(tmp_path / 'two', shards=2).uri}/plan/00000.parquet", f"{run.uri}/plan/00000.parquet")
    with pytest.raises(StorageError, match=r"00000\.parquet is damaged \(its bytes are not those that were written"):
        read_plan(run)


def test_the_last_generation_is_missed_once_its_shards_have_commits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path / "run")
    extended(run, "a.tar")
    shutil.copytree(f"{run.uri}/labels/000000", f"{run.uri}/labels/000003")
    (tmp_path / "run/plan/00001.parquet").unlink()
    commands_refuse(tmp_path / "run", capsys, "labels/000003/000000.parquet belongs to a shard that is not among the 3")


def test_a_plan_from_before_names_and_chains_is_read(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    path = tmp_path / "run/plan/00000.parquet"
    before = PLAN.remove(PLAN.get_field_index("name"))
    pq.write_table(pq.read_table(path).select(before.names).replace_schema_metadata(None), path)
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    del manifest["digests"]["plan/00000.parquet"]
    (tmp_path / "run/run.json").write_text(json.dumps(manifest))
    old = open_run(run.uri)
    assert old is not None
    assert [planned.shard.name for planned in read_plan(old)] == [None] * 3


# ---- unit files


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param("000000/000000", "000000/000001", id="the unit before"),
        pytest.param("000000/000002", "000000/000001", id="the unit after"),
        pytest.param("000001/000001", "000000/000001", id="another shard"),
        pytest.param("000000/000001", "000000/000000", id="into the first"),
    ],
)
def test_a_unit_in_anothers_place_is_named(
    tmp_path: Path, source: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path / "run")
    shutil.copy(f"{run.uri}/labels/{source}.parquet", f"{run.uri}/labels/{target}.parquet")
    assert main(["export", run.uri, "--to", "coco", "--output", str(tmp_path / "coco.json")]) == 1
    said = capsys.readouterr().err
    assert "is not the unit of its name" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "coco.json").exists()
    assert main(["status", run.uri, "--verify"]) == 1


def test_two_units_in_each_others_place_are_named(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    first, second = (tmp_path / f"run/labels/000001/{unit:06d}.parquet" for unit in (0, 1))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(StorageError, match=r"000001/000000\.parquet is not the unit of its name"):
        rows_of(run)


def test_a_unit_beyond_the_end_of_its_shard_says_which_file_to_remove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_run(tmp_path / "run")
    shutil.copy(f"{run.uri}/labels/000001/000002.parquet", f"{run.uri}/labels/000001/000003.parquet")
    commands_refuse(
        tmp_path / "run",
        capsys,
        "labels/000001/000003.parquet is beyond the end of its shard, which has 3 units; remove",
    )


def test_an_end_marker_of_a_shard_that_nobody_planned_is_named(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    (tmp_path / "run/shards/000007-1-4").touch()
    with pytest.raises(StorageError, match=r"shards/000007-1-4 belongs to a shard that is not among the 3 of the plan"):
        read_snapshot(run)

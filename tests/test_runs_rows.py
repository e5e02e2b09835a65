"""Reading rows back, and what a damaged unit file does to every command that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labeler.cli import main
from labeler.runs import iterate_units, only_units, read_plan, read_progress
from labeler.runs.rows import read_unit_file
from labeler.storage import StorageError
from tests.label_runs import noisy_run


def test_only_the_wanted_units_are_read(tmp_path: Path) -> None:
    run, _ = noisy_run(tmp_path / "run", {3: 1.0}, images=40)
    plan, progress = read_plan(run), read_progress(run)
    wanted = [(shard_id, max(units)) for shard_id, units in progress.units.items()]
    assert only_units(progress, []).units == {}
    tables = list(iterate_units(plan, only_units(progress, wanted)))
    assert len(tables) == len(wanted)
    assert only_units(progress, wanted * 2).units == {shard_id: {unit} for shard_id, unit in wanted}


@pytest.mark.parametrize("kept_bytes", [0, 100])
def test_a_damaged_unit_file_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept_bytes: int
) -> None:
    run, truth = noisy_run(tmp_path / "run", {3: 1.0}, images=40)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "names.txt").write_text("no-such-image\n")
    unit = sorted((tmp_path / "run" / "labels").rglob("*.parquet"))[0]
    unit.write_bytes(unit.read_bytes()[:kept_bytes])
    assert main(["status", run.uri, "--verify"]) == 1
    assert f"problem  {unit} is damaged" in capsys.readouterr().out
    for command in (
        ["export", run.uri, "--to", "coco", "--output", str(tmp_path / "coco.json")],
        ["report", run.uri],
        ["calibrate", run.uri, "--annotations", str(tmp_path / "gt.json"), "--target", "precision=0.9"],
        ["evaluate", run.uri, "--annotations", str(tmp_path / "gt.json")],
        ["compare", run.uri, run.uri],
        ["forget", run.uri, "--keys", str(tmp_path / "names.txt")],
    ):
        assert main(command) == (1 if command[0] == "export" else 2), command
        (line,) = capsys.readouterr().err.splitlines()
        assert str(unit) in line
        assert "delete it and label again" in line


@pytest.mark.parametrize("sound", [True, False])
def test_a_run_that_can_only_be_read_is_verified_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sound: bool
) -> None:
    run, _ = noisy_run(tmp_path / "run", {3: 1.0}, images=40)
    (tmp_path / "run" / "report.json").mkdir()  # nothing can be written under this name; permissions do not stop root
    if not sound:
        (marker,) = (tmp_path / "run" / "shards").iterdir()
        marker.rename(marker.with_name(marker.name.rpartition("-")[0] + "-39"))
    assert main(["status", run.uri, "--verify"]) == (0 if sound else 1)
    printed = capsys.readouterr().out
    assert "rows     40: " in printed
    assert ("has 40 rows, its end marker says 39" in printed) != sound
    assert f"note     the report was not written: {run.uri}/report.json cannot be written" in printed


def test_no_flipped_bit_is_read_as_other_rows(tmp_path: Path) -> None:
    """Without checksums six of ten were. Most of the rest is in parts that nobody reads, such as statistics."""
    noisy_run(tmp_path / "run", {3: 1.0}, images=40)
    unit = sorted((tmp_path / "run" / "labels").rglob("*.parquet"))[0]
    whole, expected = unit.read_bytes(), read_unit_file(str(unit)).to_pylist()
    refused = 0
    for position in range(0, len(whole), 29):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        unit.write_bytes(bytes(damaged))
        try:
            found = read_unit_file(str(unit)).to_pylist()
        except StorageError:
            refused += 1
        else:
            assert found == expected, position
    assert refused > 0.8 * len(whole) / 29

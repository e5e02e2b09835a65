"""Receipts are a hint: a report reads fewer files with them, and has the same figures without them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from labeler import storage
from labeler.cli import main
from labeler.errors import StorageError
from labeler.labels.detections import Detections
from labeler.labels.records import rows_to_table, table_to_parquet
from labeler.labels.unit_work import UnitWork
from labeler.runs import Run, Snapshot, UnitKey, layout, read_snapshot, read_unit_file, require_run, sums_of_units
from labeler.runs.erasure.erase import forget
from labeler.runs.erasure.excluded import Excluded, read_excluded, write_excluded
from labeler.runs.receipts import ReceiptLog
from labeler.runs.report import Report, build_report
from labeler.runs.sums import sums_of
from labeler.runs.sums_of_units import sum_units
from labeler.runs.timeline import stamp
from tests.derived_runs import derive
from tests.label_runs import row, write_run
from tests.log_lines import logged

CAP = 300
URIS = ("s3://b/in/part-0.tar", "s3://b/in/part-1.tar")
UNITS = [(f"{shard:06d}", unit) for shard in (0, 1) for unit in (0, 1)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two tars of six images in units of three, of every kind; nothing in `receipts/` yet."""
    found = Detections.of([[1, 2, 30, 40], [2, 2, 30, 40]], [0.5, 0.4], [3, 8])
    units = {
        (shard, unit): [
            row(3 * unit, found, shard=shard),
            row(3 * unit + 1, shard=shard),
            row(3 * unit + 2, shard=shard, status="decode_error", error=f"truncated {shard}", digest=None),
        ]
        for shard in (0, 1)
        for unit in (0, 1)
    }
    return write_run(tmp_path / "run", units, uris=URIS)


def path_of(run: Run, key: UnitKey) -> Path:
    return Path(run.path(layout.unit_file(*key)))


def keep(run: Run, keys: Iterable[UnitKey]) -> None:
    """Receipts as a job that wrote these units would leave them."""
    receipts = ReceiptLog(run, read_excluded(run))
    for key in keys:
        path = path_of(run, key)
        receipts.add(*key, path.stat().st_size, sums_of(read_unit_file(str(path)), CAP).stored())
    receipts.flush()


def report_of(run: Run) -> Report:
    return build_report(read_snapshot(run))


def damage(run: Run, key: UnitKey) -> None:
    """Other bytes of the same size: a reader fails."""
    path = path_of(run, key)
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize("kept", [UNITS[:1], UNITS[1:3], UNITS])
def test_receipts_change_no_figure_and_neither_does_deleting_them(run: Run, kept: list[UnitKey]) -> None:
    without = report_of(run)
    assert without.complete
    assert (without.images, without.detections, without.categories) == (12, 8, {"3": 4, "8": 4})
    keep(run, kept)
    assert report_of(run) == without
    shutil.rmtree(run.path(layout.RECEIPTS_FOLDER))
    assert report_of(run) == without


def test_units_with_receipts_are_not_read_and_all_others_and_the_proof_are(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    without = report_of(run)
    keep(run, UNITS)
    for key in UNITS:
        damage(run, key)
    assert report_of(run) == without
    assert main(["status", run.uri, "--verify"]) == 1
    assert "is damaged" in capsys.readouterr().out
    shutil.rmtree(run.path(layout.RECEIPTS_FOLDER))
    with pytest.raises(StorageError, match="is damaged"):
        report_of(run)


def test_what_labeling_took_is_in_receipts_too(run: Run) -> None:
    for number, key in enumerate(UNITS):
        took = UnitWork(read_s=0.25, passes=7 + number, forwards=2, places=8, filled=3, bytes_read=100)
        rows = read_unit_file(str(path_of(run, key)))
        path_of(run, key).write_bytes(table_to_parquet(rows, {**took.to_metadata(), **stamp(1e9 + 10 * number)}))
    without = report_of(run)
    assert (without.passes, without.bytes_read, without.batch_fill) == (34, 400, 0.375)
    assert without.timeline == {"start": 1e9, "seconds": 7.5, "images": [3, 3, 3, 3]}
    keep(run, UNITS[1:])
    for key in UNITS[1:]:
        damage(run, key)
    assert report_of(run) == without


def test_a_unit_that_was_written_again_is_read(run: Run) -> None:
    keep(run, UNITS)
    key = UNITS[0]
    rows = [row(i) for i in range(3)]
    path_of(run, key).write_bytes(table_to_parquet(rows_to_table(rows), {}))
    assert report_of(run).statuses == {"labeled": 3, "empty": 6, "decode_error": 3}, "of another size"
    keep(run, [key])
    damage(run, key)
    with pytest.raises(StorageError, match="is damaged"):
        report_of(run)  # two receipts for a unit: neither counts


def test_receipts_under_another_list_of_images_to_forget_do_not_count(run: Run) -> None:
    keep(run, UNITS)
    name = "part-1.tar/0.jpg"
    assert report_of(run).images_to_forget == 0
    write_excluded(run, Excluded.of([name]))  # as a job with `input.exclude` does; no unit file is changed
    assert report_of(run).images_to_forget == 1
    forget(run, [name])
    assert report_of(run).statuses == {"labeled": 3, "empty": 4, "decode_error": 4, "removed": 1}
    assert report_of(run) == build_report(read_snapshot(run), receipts=False)


def test_rows_that_are_missing_are_found_with_receipts_too(run: Run) -> None:
    keep(run, UNITS)
    Path(run.path(layout.end_marker("000001", 2, 6))).rename(run.path(layout.end_marker("000001", 2, 7)))
    assert report_of(run).problems == ("shard 000001 has 6 rows, its end marker says 7",)
    path_of(run, UNITS[0]).unlink()
    found = report_of(run)
    assert (found.complete, found.images) == (False, 9)


def test_receipts_of_an_extension_that_the_plan_does_not_know_do_not_count(run: Run) -> None:
    """Another job may have extended the run and committed since this one read its plan."""
    without, snapshot = report_of(run), read_snapshot(run)
    keep(run, UNITS)
    earlier = replace(snapshot, plan=snapshot.plan[:1])
    assert build_report(earlier).images == build_report(earlier, receipts=False).images == without.images // 2


def test_what_is_no_receipt_is_passed_over(run: Run) -> None:
    without = report_of(run)
    keep(run, UNITS[:2])
    folder = Path(run.path(layout.RECEIPTS_FOLDER)) / "other"
    folder.mkdir()
    (folder / "00000.parquet").write_bytes(b"PAR1 no")
    good = next(path for path in folder.parent.glob("*/00000.parquet") if path.parent != folder)
    pq.write_table(pq.read_table(good).drop_columns(["size"]), folder / "00001.parquet")
    assert report_of(run) == without


def test_storage_that_takes_no_receipts_ends_the_log_and_not_the_job(run: Run) -> None:
    Path(run.path(layout.RECEIPTS_FOLDER)).write_text("a file where a folder should be")
    with logged("labeler.runs.receipts") as lines:
        keep(run, UNITS)
    (line,) = lines
    assert "receipts are not kept" in line


def test_where_a_process_was_killed_this_one_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.runs.sums_of_units.UNITS_PER_TASK", 1)
    monkeypatch.setattr("labeler.runs.sums_of_units._sum_stretch", killed)
    snapshot = read_snapshot(run)
    alone = list(sum_units(snapshot, Excluded(), processes=1))
    assert list(sum_units(snapshot, Excluded(), processes=2)) == alone


def killed(excluded: Excluded, stretch: Snapshot) -> list[sums_of_units.UnitCount]:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(sum_units(stretch, excluded, processes=1))


@pytest.mark.parametrize(("free_gb", "processes"), [(100, 16), (2, 4), (0, 1)])
def test_processes_are_bounded_by_what_memory_is_free(
    monkeypatch: pytest.MonkeyPatch, free_gb: int, processes: int
) -> None:
    monkeypatch.setattr("labeler.processes.available_cpus", lambda: 64.0)
    monkeypatch.setattr("labeler.processes.memory_in_use", lambda: [(8 << 30, (8 + free_gb) << 30)])
    assert sums_of_units.processes_for(sums_of_units.WORTH_PROCESSES) == processes
    assert sums_of_units.processes_for(sums_of_units.WORTH_PROCESSES - 1) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_add_up_what_one_adds_up(run: Run, damaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.runs.sums_of_units.UNITS_PER_TASK", 1)
    snapshot = read_snapshot(run)
    alone = list(sum_units(snapshot, Excluded(), processes=1))
    assert len({count.shard_id for count in alone}) > 1
    if damaged:
        damage(run, (alone[-1].shard_id, alone[-1].unit))
        with pytest.raises(StorageError, match="is damaged"):
            list(sum_units(snapshot, Excluded(), processes=2))
    else:
        assert list(sum_units(snapshot, Excluded(), processes=2)) == alone


def test_a_derived_run_is_reported_from_its_own_receipts_and_those_of_the_run_below(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redone = {(shard, 0): [row(i, shard=shard) for i in range(3)] for shard in (0, 1)}
    derived = derive(run, tmp_path / "derived", redone)
    of_derived = [(f"{shard:06d}", unit) for shard, unit in redone]
    without = report_of(derived)
    assert (without.complete, without.images, without.detections) == (True, 12, 4)
    keep(run, UNITS)  # those of the units that were redone do not count
    keep(derived, of_derived)
    assert report_of(derived) == without
    for key in UNITS:
        damage(run, key)
    damage(derived, of_derived[0])
    damage(derived, of_derived[1])
    assert report_of(derived) == without
    assert main(["status", derived.uri, "--verify"]) == 1
    assert "is damaged" in capsys.readouterr().out
    shutil.rmtree(derived.path(layout.RECEIPTS_FOLDER))
    with pytest.raises(StorageError, match="is damaged"):
        report_of(derived)


@pytest.mark.parametrize("whole", [False, True])
def test_receipts_below_a_derived_run_that_has_all_units_itself_are_not_listed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    every = {(shard, unit): [row(3 * unit + i, shard=shard) for i in range(3)] for shard in (0, 1) for unit in (0, 1)}
    derived = derive(run, tmp_path / "derived", every, whole=whole)
    without = report_of(derived)
    keep(run, UNITS)
    keep(derived, UNITS[whole:])  # the one that is left of a whole run is read
    listed: list[str] = []
    list_objects = storage.list_objects

    def noted(uri: str, **options: Any) -> Iterator[storage.ObjectInfo]:
        listed.append(uri)
        return list_objects(uri, **options)

    monkeypatch.setattr(storage, "list_objects", noted)
    assert report_of(derived) == without
    assert [uri for uri in listed if uri.endswith(layout.RECEIPTS_FOLDER)] == [derived.path(layout.RECEIPTS_FOLDER)]


def test_receipts_below_a_derived_run_of_another_cap_do_not_count(run: Run, tmp_path: Path) -> None:
    keep(run, UNITS)
    config = {**run.manifest.config, "detect": {**run.manifest.config["detect"], "max_detections": 2}}
    below = replace(run, manifest=replace(run.manifest, config=config))
    derived = require_run(derive(below, tmp_path / "derived", {(0, 0): [row(i) for i in range(3)]}).uri)
    found = report_of(derived)
    assert found.images_at_cap == 3
    assert found == build_report(read_snapshot(derived), receipts=False)

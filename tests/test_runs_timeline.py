"""What unit files say of how they were made: the time of each commit and the work, in report.json and on the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from labeler.labels.thresholds import Thresholds
from labeler.labels.unit_work import UnitWork
from labeler.review import write_report
from labeler.runs import Run, read_snapshot, read_unit_file
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.receipts import ReceiptLog
from labeler.runs.report import build_report
from labeler.runs.sums import sums_of
from labeler.runs.timeline import committed_at, stamp, timeline
from tests.label_runs import row, write_run
from tests.review_runs import data_of

START = 1_700_000_000.0
IMAGES = {0: 4, 1: 2, 2: 3}  # by unit


def stamped_run(folder: Path, work: UnitWork, *, seconds_apart: float = 10.0) -> Run:
    """Three units, committed one after the other."""
    starts = {0: 0, 1: 4, 2: 6}
    run = write_run(folder, {(0, unit): [row(starts[unit] + i) for i in range(n)] for unit, n in IMAGES.items()})
    for unit in IMAGES:
        path = folder / f"labels/000000/{unit:06d}.parquet"
        table = pq.read_table(path)
        metadata = {**work.to_metadata(), **stamp(START + seconds_apart * unit)}
        pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)
    return run


def page_of(run: Run, target: Path) -> dict[str, Any]:
    write_report(read_snapshot(run), str(target), thresholds=Thresholds(0.3))
    return data_of(target.read_text())


def test_report_and_page_have_the_same_timeline_from_the_files_wherever_they_are_copied(tmp_path: Path) -> None:
    run = stamped_run(tmp_path / "run", UnitWork())
    for path in (tmp_path / "run/labels").rglob("*.parquet"):
        os.utime(path, (1, 1))  # a copy
    found = build_report(read_snapshot(run)).timeline
    assert found == {"start": START, "seconds": 20 / 3, "images": [4, 2, 3]}
    assert page_of(run, tmp_path / "page.html")["timeline"] == found


def test_report_and_page_sum_the_work_of_all_units(tmp_path: Path) -> None:
    work = UnitWork(read_s=0.5, detect_s=2.0, passes=4, places=8, filled=6, retries=1, memory_halvings=1, bytes_read=9)
    run = stamped_run(tmp_path / "run", work)
    report = build_report(read_snapshot(run)).to_dict()
    summed = {
        "passes": 12,
        "retries": 3,
        "memory_halvings": 3,
        "bytes_read": 27,
        "stage_seconds": {"read": 1.5, "decode": 0.0, "detect": 6.0, "mask": 0.0},
        "batch_fill": 0.75,
    }
    assert {name: report[name] for name in summed} == summed
    assert page_of(run, tmp_path / "page.html")["work"] == summed


def test_files_of_earlier_versions_count_no_work_and_have_the_times_of_the_storage(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {(0, 0): [row(0)], (0, 1): [row(1)]})
    os.utime(tmp_path / "run/labels/000000/000001.parquet", (START, START))
    report = build_report(read_snapshot(run))
    assert (report.passes, report.batch_fill, report.timeline) == (0, None, None)
    assert page_of(run, tmp_path / "page.html")["timeline"]["start"] == START


def test_damaged_metadata_counts_nothing() -> None:
    assert UnitWork.from_metadata({b"work": b"{"}) == UnitWork()
    assert UnitWork.from_metadata({b"work": b'{"passes":"many"}'}) == UnitWork()
    assert UnitWork.from_metadata({b"work": b"[1]"}) == UnitWork()
    assert committed_at({b"committed_at": b"nan"}) is None
    assert committed_at({b"committed_at": b"soon"}) is None
    assert timeline([(START, 3), (START + 0.5, 3)]) is None


def test_receipts_say_the_same_work_and_times_as_the_files(tmp_path: Path) -> None:
    run = stamped_run(tmp_path / "run", UnitWork(read_s=0.5, passes=4, places=8, filled=6, retries=1, bytes_read=9))
    read = build_report(read_snapshot(run))
    log = ReceiptLog(run, Excluded())
    for unit in IMAGES:
        path = tmp_path / f"run/labels/000000/{unit:06d}.parquet"
        log.add("000000", unit, path.stat().st_size, sums_of(read_unit_file(str(path)), 300).stored())
        path.write_bytes(bytes(path.stat().st_size))  # only its receipt can say
    log.flush()
    assert build_report(read_snapshot(run)) == read
    assert read.passes == 12

"""Exports whose parts several processes write: the files are those of one process, killed or not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from labeler.byte_budget import DECODE_BYTES, ByteBudget
from labeler.cli import main
from labeler.errors import Incomplete, LabelerError
from labeler.exports import in_processes, pixels, state
from labeler.exports.coco_files import CocoFormat
from labeler.exports.export import export_run
from labeler.exports.formats import Format
from labeler.exports.odvg import OdvgFormat
from labeler.exports.parquet_tables import TablesFormat
from labeler.exports.selection import Selection
from labeler.exports.splits import parse_splits
from labeler.exports.totals import ExportTotals
from labeler.exports.uncertain import CROWD, Uncertain
from labeler.exports.webdataset_tars import WebDatasetFormat
from labeler.exports.yolo import YoloFormat
from labeler.labels.thresholds import Thresholds
from labeler.processes import Processes
from labeler.runs import Run, layout, read_snapshot
from tests.exit_codes import environment
from tests.export_parts import images
from tests.label_runs import write_run
from tests.processes import kill_one_of
from tests.red_boxes import red_run
from tests.storage_parts import require_same
from tests.waiting import wait_until

PLAIN = Selection(thresholds=Thresholds(0.5), splits=parse_splits("a=0.5,b=0.5"))
CROWDS = Selection(thresholds=Thresholds(0.85), uncertain=Uncertain(0.5, CROWD))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Forty images in units of five, in two shards."""
    units = {(shard, unit): images(5, first=5 * unit, shard=shard) for shard in (0, 1) for unit in range(4)}
    return write_run(tmp_path / "run", units, uris=("s3://b/in/part-0.tar", "s3://b/in/part-1.tar"))


class InThisProcess(Processes[Any]):
    """Does the work of many in this one."""

    def __init__(self, shared: object, count: int) -> None:
        super().__init__(shared, 1)


@pytest.mark.parametrize(
    ("format_", "selection"),
    [
        (CocoFormat(images_per_part=7), PLAIN),
        (CocoFormat(images_per_part=7), CROWDS),  # annotation ids count on behind the crowds of earlier parts
        (CocoFormat(lvis=True, images_per_part=12), PLAIN),
        (OdvgFormat(images_per_part=7), Selection(min_boxes=99)),  # a part without an image
        (TablesFormat(rows_per_part=20), PLAIN),  # filled by boxes
        (TablesFormat(rows_per_part=20), CROWDS),  # regions to ignore fill no part
    ],
    ids=["coco", "crowds", "lvis", "nothing", "parquet", "parquet without crowds"],
)
def test_parts_that_are_counted_first_are_the_files_of_one_process(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, format_: Format, selection: Selection
) -> None:
    monkeypatch.setattr(in_processes, "Processes", InThisProcess)
    monkeypatch.setattr(in_processes, "UNITS_PER_COUNT", 3)
    snapshot = read_snapshot(run)
    alone = export_run(snapshot, selection, format_, str(tmp_path / "alone"), processes=1)
    shared = export_run(snapshot, selection, format_, str(tmp_path / "shared"), processes=2)
    assert (shared.parts, shared.totals) == (alone.parts, alone.totals)
    assert alone.parts > 1 or selection.min_boxes
    require_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.parametrize(
    ("format_", "selection"),
    [
        (CocoFormat(), Selection()),
        (WebDatasetFormat(images_per_part=4), Selection()),
        (TablesFormat(copy_images=True, bytes_per_part=1), Selection()),
        (CocoFormat(images_per_part=4), Selection(splits=parse_splits("a=0.5,b=0.5"), near_copies=3)),
    ],
    ids=["one part", "tars", "pixels in tables", "near-duplicates"],
)
def test_one_process_writes_what_only_writing_can_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: Format, selection: Selection
) -> None:
    monkeypatch.setattr(in_processes, "Processes", None)
    snapshot = read_snapshot(red_run(tmp_path, shards=3))
    done = export_run(snapshot, selection, format_, str(tmp_path / "out"), processes=2)
    assert done.totals.units == len(snapshot.unit_keys())


def test_processes_write_the_pixels_that_one_writes(tmp_path: Path) -> None:
    run = red_run(tmp_path, shards=6)
    format_, snapshot = YoloFormat(images_per_part=4), read_snapshot(run)
    alone = export_run(snapshot, Selection(), format_, str(tmp_path / "alone"), processes=1)
    shared = export_run(snapshot, Selection(), format_, str(tmp_path / "shared"), processes=2)
    assert shared.totals == alone.totals
    assert alone.parts > 2
    require_same(tmp_path / "shared", tmp_path / "alone")


def test_a_process_that_is_killed_while_a_part_is_noted_loses_no_unit(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[Processes[Any]] = []

    class Kept(Processes[Any]):
        def __init__(self, shared: object, count: int) -> None:
            super().__init__(shared, count)
            pools.append(self)

    def note_and_kill(target: str, number: int, totals: ExportTotals) -> None:
        note_part(target, number, totals)
        if number == 0:
            kill_one_of(pools[0])

    note_part, format_, snapshot = state.note_part, OdvgFormat(images_per_part=5), read_snapshot(run)
    alone = export_run(snapshot, PLAIN, format_, str(tmp_path / "alone"), processes=1)
    monkeypatch.setattr(in_processes, "Processes", Kept)
    monkeypatch.setattr(state, "note_part", note_and_kill)
    shared = export_run(snapshot, PLAIN, format_, str(tmp_path / "shared"), processes=2)
    assert (shared.parts, shared.totals) == (alone.parts, alone.totals)
    assert alone.parts == 8  # more than are under way at once
    require_same(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.parametrize(("lost", "of"), [("counted", "_count"), ("written", "_write_part")])
def test_an_export_that_lost_units_is_not_noted_as_complete(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, lost: str, of: str
) -> None:
    class Losing(InThisProcess):
        def map(self, work: Any, tasks: Iterable[Any]) -> Iterator[Any]:
            found = list(super().map(work, tasks))
            return iter(found[:-1] if work.__name__ == of else found)

    monkeypatch.setattr(in_processes, "Processes", Losing)
    monkeypatch.setattr(in_processes, "UNITS_PER_COUNT", 3)
    with pytest.raises(LabelerError, match=rf"\d of 8 units were {lost}; delete \S+shared and export again"):
        export_run(read_snapshot(run), PLAIN, OdvgFormat(images_per_part=5), str(tmp_path / "shared"), processes=2)
    assert not json.loads((tmp_path / "shared/.labeler/export.json").read_text())["complete"]


def test_processes_share_the_memory_for_images_that_one_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []

    class Counting(ByteBudget):
        def __init__(self, limit: int = DECODE_BYTES) -> None:
            super().__init__(limit)
            budgets.append(limit)

    monkeypatch.setattr(pixels, "ByteBudget", Counting)
    monkeypatch.setattr(in_processes, "Processes", InThisProcess)
    snapshot, format_ = read_snapshot(red_run(tmp_path, shards=2)), YoloFormat(images_per_part=99)
    for processes in (1, 4):
        export_run(snapshot, Selection(), format_, str(tmp_path / str(processes)), processes=processes)
    assert budgets == [2 << 30, 512 << 20]


def test_memory_for_images_leaves_room_for_fewer_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class Counting(InThisProcess):
        def __init__(self, shared: object, count: int) -> None:
            super().__init__(shared, count)
            counts.append(count)

    monkeypatch.setattr(in_processes, "Processes", Counting)
    monkeypatch.setattr("labeler.runs.sums_of_units.WORTH_PROCESSES", 1)
    monkeypatch.setattr("labeler.processes.available_cpus", lambda: 64.0)
    monkeypatch.setattr("labeler.processes.memory_in_use", lambda: [(8 << 30, 12 << 30)])
    snapshot = read_snapshot(red_run(tmp_path, shards=2))
    export_run(snapshot, Selection(), YoloFormat(images_per_part=99), str(tmp_path / "pixels"))
    export_run(snapshot, Selection(), OdvgFormat(images_per_part=99), str(tmp_path / "text"))
    assert counts == [4, 8]  # of 4 GiB that are free, half is for decoding


@pytest.mark.slow
def test_a_unit_file_that_a_process_cannot_read_stops_the_export_and_restored_it_continues(tmp_path: Path) -> None:
    run = red_run(tmp_path, shards=6)
    snapshot = read_snapshot(run)
    lost = Path(run.path(layout.unit_file(*snapshot.unit_keys()[-1])))
    whole = lost.read_bytes()
    lost.write_bytes(b"\0" * len(whole))
    with pytest.raises(Incomplete, match="is damaged"):
        export_run(snapshot, Selection(), CocoFormat(images_per_part=4), str(tmp_path / "damaged"), processes=2)
    lost.write_bytes(whole)
    export_run(read_snapshot(run), Selection(), CocoFormat(images_per_part=4), str(tmp_path / "damaged"), processes=1)


KILLED = """
import os, signal, sys
from labeler import cli, processes, storage
from labeler.runs import sums_of_units

def put_and_die(uri, data):
    put(uri, data)
    if uri.endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

put, storage.put = storage.put, put_and_die
sums_of_units.WORTH_PROCESSES = 1
sums_of_units.affordable_processes = lambda together: 2
sys.exit(cli.main(sys.argv[2:]))
"""


def start(command: Sequence[str], *, dies_at: str = "never") -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", KILLED, dies_at, *command]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)


@pytest.mark.slow  # six commands
def test_killed_and_twice_at_once_it_ends_as_one_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    run = red_run(tmp_path, shards=6)
    command = ["export", run.uri, "--to", "coco", "--images-per-shard", "4", "--images", "copy", "--output"]
    assert main([*command, str(tmp_path / "alone")]) == 0

    stopped = tmp_path / "stopped"
    assert start([*command, str(stopped)], dies_at="parts/00001.json").wait() == -signal.SIGKILL
    assert not (stopped / ".labeler/parts/00002.json").exists()
    assert start([*command, str(stopped)]).wait() == 0
    require_same(stopped, tmp_path / "alone")
    wait_until(lambda: not list(scratch.iterdir()) or main([*command, str(stopped)]) == 0)
    assert not list(scratch.iterdir())

    both = [start([*command, str(tmp_path / "both")]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    require_same(tmp_path / "both", tmp_path / "alone")
    assert not list(scratch.iterdir())

"""Exports whose parts several processes write: the files are those of one process, killed or not."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from labeler.cli import main
from labeler.errors import Incomplete
from labeler.exports import in_processes
from labeler.exports.coco_files import CocoFormat
from labeler.exports.export import export_run
from labeler.exports.formats import Format
from labeler.exports.odvg import OdvgFormat
from labeler.exports.parquet_tables import TablesFormat
from labeler.exports.selection import Selection
from labeler.exports.splits import parse_splits
from labeler.exports.uncertain import CROWD, Uncertain
from labeler.exports.webdataset_tars import WebDatasetFormat
from labeler.exports.yolo import YoloFormat
from labeler.labels.thresholds import Thresholds
from labeler.processes import Processes
from labeler.runs import Run, layout, read_snapshot
from tests.exit_codes import environment
from tests.export_parts import images
from tests.label_runs import write_run
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
    ],
    ids=["coco", "crowds", "lvis", "nothing", "parquet"],
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
sums_of_units.affordable_processes = lambda: 2
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

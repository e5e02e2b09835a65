"""What the report at the end of a run takes for each unit: from receipts, by reading every row, and in processes.

    python -m benchmarks.report_scale FOLDER --units 2000 8000 --output benchmarks/results/report-scale.json

Rows are synthetic (`benchmarks.export_scale`, 256 images a unit); reports are made in child processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.export_scale import UNIT_IMAGES, in_child, write_run
from benchmarks.machine import machine
from labeler.machine import available_cpus
from labeler.runs import layout, read_snapshot
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.receipts import ReceiptLog
from labeler.runs.sums import SUMMED_COLUMNS, sums_of

_REPORT = (
    "from labeler.runs import open_run, read_snapshot; from labeler.runs.report import build_report; "
    "assert build_report(read_snapshot(open_run({uri!r})), receipts={receipts}).complete"
)
_SUMS = (
    "from labeler.runs import open_run, read_snapshot; from labeler.runs.erasure.excluded import Excluded; "
    "from labeler.runs.sums_of_units import sum_units; "
    "assert len(list(sum_units(read_snapshot(open_run({uri!r})), Excluded(), processes={processes}))) == {units}"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_scale", description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder with room: about 2.5 KB an image")
    parser.add_argument("--units", type=int, nargs="+", default=[500], help="sizes of the run, one after the other")
    parser.add_argument("--boxes", type=int, default=30, help="stored boxes an image (default 30)")
    parser.add_argument("--vocabulary", default="coco")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    rows = [row for units in arguments.units for row in measure(units, arguments)]
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


def measure(units: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Write a run of that many units with receipts, and report on it with them and without."""
    folder = arguments.folder / f"run-{units}"
    run = write_run(folder, images=units * UNIT_IMAGES, boxes=arguments.boxes, vocabulary=arguments.vocabulary)
    snapshot, receipts = read_snapshot(run), ReceiptLog(run, Excluded())
    for (shard_id, unit), table in snapshot.units(SUMMED_COLUMNS):
        sums = sums_of(table, run.manifest.config["detect"]["max_detections"])
        receipts.add(shard_id, unit, snapshot.progress.sizes[0][shard_id][unit], sums.stored())
    receipts.flush()
    size = sum(path.stat().st_size for path in (folder / layout.RECEIPTS_FOLDER).rglob("*.parquet"))
    rows = []
    ways = {
        "from receipts": _REPORT.format(uri=run.uri, receipts=True),
        "every row": _REPORT.format(uri=run.uri, receipts=False),
        **{
            f"rows alone, {count} processes": _SUMS.format(uri=run.uri, processes=count, units=units)
            for count in (1, 2, 4, 8, 16)
            if count <= available_cpus()
        },
    }
    for name, program in ways.items():
        seconds, cpu, peak = in_child("-c", program)
        rows.append(
            {
                "units": units,
                "report": name,
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "peak_mb": round(peak),
                "receipts_bytes": size,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    shutil.rmtree(folder)
    return rows


if __name__ == "__main__":
    sys.exit(main())

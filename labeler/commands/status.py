"""`labeler status`: what a run has done, and a check of every row."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from labeler import __version__, storage
from labeler.commands.arguments import Verbs, require_run
from labeler.errors import StorageError, counted

if TYPE_CHECKING:
    from labeler.runs import Run, Snapshot


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("status", help="what a run has done: exit 0 complete, 1 incomplete, 2 not a run")
    parser.add_argument("run_uri", metavar="RUN", help="run folder: the output of the configuration")
    parser.add_argument(
        "--verify", action="store_true", help="read every row, check the counts and rebuild report.json"
    )
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    from labeler.runs import read_snapshot

    run = require_run(arguments.run_uri)
    snapshot = read_snapshot(run)
    plan, progress = snapshot.plan, snapshot.progress
    finished = len(plan) - len(snapshot.left)
    images, exact = progress.images_known(plan)
    print(f"run      {run.manifest.run_id}, created {run.manifest.created}")
    print(f"began    {_describe_version(run)}")
    if run.parent is not None:
        pending = sum(len(units) for units in progress.pending.values())
        print(f"parent   {storage.redact(run.parent.uri)}, {counted(pending, 'unit')} pending")
    print(f"shards   {finished:,} of {len(plan):,} finished, {counted(progress.committed_units, 'unit')} committed")
    print(f"images   {'' if exact else '≥ '}{images:,} planned")
    complete = _verify(snapshot) if arguments.verify else snapshot.is_complete
    print("complete" if complete else "incomplete: run the same label command again")
    return 0 if complete else 1


def _describe_version(run: Run) -> str:
    """Return which version began the run, and what this one may do with it."""
    words = f"with labeler {run.manifest.versions.get('labeler', 'of an unknown version')}; labeler {__version__} "
    if not run.outgrown:
        return words + "reads and continues it"
    return words + f"reads it (export, evaluate, report, compare, forget) but adds no rows to it: {run.outgrown}"


def _verify(snapshot: Snapshot) -> bool:
    """Reads every row, and says what it finds; whether all is there and sound, the report written or not."""
    from labeler.commands.label import describe_to_forget
    from labeler.digests import readable_json
    from labeler.runs import layout
    from labeler.runs.report import build_report

    try:
        report = build_report(snapshot, receipts=False)
    except StorageError as error:  # a unit file that is damaged, or cannot be read
        print(f"problem  {error}")
        return False
    print(f"rows     {report.images:,}: {', '.join(f'{s} {n:,}' for s, n in report.statuses.items()) or 'none'}")
    for problem in report.problems:
        print(f"problem  {problem}")
    if report.images_to_forget:
        print(describe_to_forget(report.images_to_forget, snapshot.run.uri))
    try:
        storage.put(snapshot.run.path(layout.REPORT), readable_json(report.to_dict()))
    except StorageError as error:  # users who may only read the run can check its counts all the same
        print(f"note     the report was not written: {error}")
    return report.complete and not _is_unselected(snapshot)


def _is_unselected(snapshot: Snapshot) -> bool:
    """Say which units a derived run lacks, because they came after it was created."""
    from labeler.runs import read_snapshot
    from labeler.runs.overlay.derived import count_unselected, describe_unselected

    run = snapshot.run
    if run.parent is None:
        return False
    count = count_unselected(run, read_snapshot(run.parent))
    if count:
        print(f"problem  {describe_unselected(run, count)}")
    return bool(count)

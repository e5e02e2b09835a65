"""Derived runs: what of a run is to be made anew, and the configuration to do it with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import Progress
from labeler.runs.rows import iterate_units
from labeler.runs.selection import Selection, read_selection


def select_units(plan: Sequence[PlannedShard], progress: Progress, statuses: Collection[str]) -> Selection:
    """The units that hold rows with one of these statuses, and how many."""
    chosen: dict[str, dict[int, int]] = {}
    wanted = pa.array(sorted(statuses), pa.string())
    for (shard_id, unit), table in iterate_units(plan, progress, ("status",)):
        if images := pc.sum(pc.is_in(table["status"], value_set=wanted)).as_py():
            chosen.setdefault(shard_id, {})[unit] = images
    return chosen


def count_unselected(run: Run, plan: Sequence[PlannedShard], below: Progress) -> int:
    """Return how many units a derived run would redo if it were created now, and does not: its selection is frozen.

    Args:
        below: progress of the run that it derives from, which may have been extended since.
    """
    frozen = read_selection(run)
    now = select_units(plan, below, run.manifest.fingerprint_fields["redo"])
    return sum(unit not in frozen.get(shard_id, {}) for shard_id, units in now.items() for unit in units)


def describe_unselected(run: Run, count: int) -> str:
    """One line that names those units and the command that redoes them."""
    statuses = ",".join(run.manifest.fingerprint_fields["redo"])
    uri = storage.redact(run.uri)
    command = f"mask {uri}" if statuses == "labeled" else f"retry {uri} --status {statuses}"
    return (
        f"{count:,} units with images of status {statuses} were labeled after {uri} was created, and are not redone in "
        f"it; redo them with: labeler {command} --output {uri}-2"
    )

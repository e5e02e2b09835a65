"""Derived runs: what of a run is to be made anew, and the configuration to do it with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from labeler.runs.plan import PlannedShard
from labeler.runs.progress import Progress
from labeler.runs.rows import iterate_units
from labeler.runs.selection import Selection


def select_units(plan: Sequence[PlannedShard], progress: Progress, statuses: Collection[str]) -> Selection:
    """The units that hold rows with one of these statuses, and how many."""
    chosen: dict[str, dict[int, int]] = {}
    wanted = pa.array(sorted(statuses), pa.string())
    for (shard_id, unit), table in iterate_units(plan, progress, ("status",)):
        if images := pc.sum(pc.is_in(table["status"], value_set=wanted)).as_py():
            chosen.setdefault(shard_id, {})[unit] = images
    return chosen

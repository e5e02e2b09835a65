"""Select which units of a parent run a derived run must redo, and the configuration for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.runs.manifest import Run
from labeler.runs.overlay.chosen_units import Selection, read_selection
from labeler.runs.plan import generations
from labeler.runs.snapshot import Snapshot


def select_units(snapshot: Snapshot, statuses: Collection[str]) -> Selection:
    """The units that hold rows with one of these statuses, and how many."""
    chosen: dict[str, dict[int, int]] = {}
    wanted = pa.array(sorted(statuses), pa.string())
    for (shard_id, unit), table in snapshot.units(("status",)):
        if images := pc.sum(pc.is_in(table["status"], value_set=wanted)).as_py():
            chosen.setdefault(shard_id, {})[unit] = images
    return chosen


def count_unselected(run: Run, below: Snapshot) -> int:
    """Return how many units a derived run would redo if it were created now, and does not: its selection is frozen.

    Args:
        below: the run that it derives from, which may have been extended since.
    """
    if run.manifest.whole or generations(run.root) == 1:  # it selects nothing; or nothing can have come since
        return 0
    frozen = read_selection(run)
    now = select_units(below, run.manifest.fingerprint_fields["redo"])
    return sum(unit not in frozen.get(shard_id, {}) for shard_id, units in now.items() for unit in units)


def describe_unselected(run: Run, count: int) -> str:
    """One line that names those units and the command that redoes them."""
    statuses = ",".join(run.manifest.fingerprint_fields["redo"])
    uri = storage.redact(run.uri)
    command = f"{_adding(run)} {uri}" if statuses == "labeled" else f"retry {uri} --status {statuses}"
    return (
        f"{count:,} units with images of status {statuses} were labeled after {uri} was created, and are not redone in "
        f"it; redo them with: labeler {command} --output {uri}-2"
    )


def _adding(run: Run) -> str:
    """The command that gave the run's boxes what they have more than those of its parent."""

    def second_scores(of: Run | None) -> dict[str, Any]:
        fields = of.manifest.fingerprint_fields if of else {}
        return {name: value for name, value in fields.items() if name.partition(".")[0] == "rescore"}

    return "rescore" if second_scores(run) != second_scores(run.parent) else "mask"

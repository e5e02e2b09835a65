"""What is committed and what is left: the listing of a run's folder is the only record of progress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from labeler import storage
from labeler.errors import InputChanged
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Progress:
    """The commits of a run as listed.

    Attributes:
        units: shard id -> numbers of its committed units.
        ends: shard id -> (units, images) of its end marker.
    """

    units: Mapping[str, frozenset[int]]
    ends: Mapping[str, tuple[int, int]]

    def is_finished(self, shard_id: str) -> bool:
        """The shard has its end marker and as many unit files as it says."""
        end = self.ends.get(shard_id)
        return end is not None and len(self.units.get(shard_id, NOTHING)) == end[0]

    def left(self, plan: Iterable[PlannedShard]) -> list[PlannedShard]:
        """The shards that still need work, in plan order."""
        return [p for p in plan if not self.is_finished(p.shard_id)]

    def is_complete(self, plan: Iterable[PlannedShard]) -> bool:
        return not self.left(plan)

    @property
    def committed_units(self) -> int:
        return sum(len(units) for units in self.units.values())

    def images_per_shard(self, plan: Iterable[PlannedShard]) -> dict[str, int | None]:
        """Images of each shard: from its end marker, or as planned; None where only reading it to its end will tell."""
        return {p.shard_id: self.ends[p.shard_id][1] if p.shard_id in self.ends else p.images for p in plan}

    def images_known(self, plan: Iterable[PlannedShard]) -> tuple[int, bool]:
        """(images of the plan as far as known, whether that is all of them)."""
        counts = self.images_per_shard(plan).values()
        return sum(images or 0 for images in counts), None not in counts


def read_progress(run: Run) -> Progress:
    """List the commits of a run.

    Raises:
        InputChanged: a shard has two end markers that disagree: its bytes changed between two readings.
    """
    units: dict[str, set[int]] = {}
    root = run.path(layout.LABELS_FOLDER)
    for info in storage.list_objects(root):
        match = layout.UNIT_FILE.fullmatch(info.uri.removeprefix(root).lstrip("/"))
        if match:
            units.setdefault(match[1], set()).add(int(match[2]))
    ends: dict[str, tuple[int, int]] = {}
    for info in storage.list_objects(run.path(layout.SHARDS_FOLDER)):
        match = layout.END_MARKER.fullmatch(storage.basename(info.uri))
        if match:
            end = (int(match[2]), int(match[3]))
            if ends.setdefault(match[1], end) != end:
                raise InputChanged(
                    f"shard {match[1]} of run {storage.redact(run.uri)} ended twice with different counts, "
                    f"{ends[match[1]]} and {end} (units, images): its bytes changed while it was read; "
                    "restore the input, or label it again into another output"
                )
    return Progress({shard: frozenset(numbers) for shard, numbers in units.items()}, ends)

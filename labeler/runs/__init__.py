"""A run: a folder on storage with an immutable manifest, a plan, and committed units."""

from labeler.runs.manifest import Manifest, Run, fingerprint_of, open_run, require_run
from labeler.runs.plan import PlannedShard, read_plan
from labeler.runs.progress import Progress, read_progress
from labeler.runs.rows import UnitKey, iterate_units, only_units, read_unit_file, units_in_order
from labeler.runs.snapshot import Snapshot, read_snapshot

__all__ = [
    "Manifest",
    "PlannedShard",
    "Progress",
    "Run",
    "Snapshot",
    "UnitKey",
    "fingerprint_of",
    "iterate_units",
    "only_units",
    "open_run",
    "read_plan",
    "read_progress",
    "read_snapshot",
    "read_unit_file",
    "require_run",
    "units_in_order",
]

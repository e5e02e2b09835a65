"""A run's plan and its commits, read together and held against each other."""

from __future__ import annotations

from labeler import storage
from labeler.runs import layout
from labeler.runs.manifest import Run
from labeler.runs.plan import PlannedShard, generations, read_plan
from labeler.runs.progress import Progress, read_progress


def read_snapshot(run: Run) -> tuple[list[PlannedShard], Progress]:
    """Return the plan and what is committed of it.

    Raises:
        StorageError: if a file cannot be read, or something is committed that the plan does not have: then a plan file
            is gone, or files of another run were copied into this one.
    """
    plan, progress = read_plan(run), read_progress(run)
    if stray_file(plan, progress) is not None:
        plan = read_plan(run)  # a job that extends the run may have come in between
    if (stray := stray_file(plan, progress)) is not None:
        next_plan = run.root.path(layout.plan_file(generations(run.root)))
        raise storage.StorageError(
            f"{storage.redact(stray)} belongs to a shard that is not among the {len(plan):,} of the plan; restore the "
            f"plan file that is missing ({storage.redact(next_plan)}), or remove what is not of this run"
        )
    return plan, progress


def stray_file(plan: list[PlannedShard], progress: Progress) -> str | None:
    """Return a unit file or end marker of a shard that the plan does not have, or None."""
    known = {planned.shard_id for planned in plan}
    for folder, units in progress.folders:
        for shard_id in sorted(units.keys() - known):
            return storage.join(folder, layout.unit_file(shard_id, min(units[shard_id])))
    for shard_id in sorted(progress.ends.keys() - known):
        return storage.join(progress.folders[-1][0], layout.end_marker(shard_id, *progress.ends[shard_id]))
    return None

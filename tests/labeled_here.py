"""Runs that are labeled in this process, without Ray: the same jobs, units, rows and commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from labeler import storage
from labeler.config import Config
from labeler.labeling.recipe import labeler_recipe
from labeler.labeling.resolve import Job, plan_input, resolve_job
from labeler.labeling.revision import RevisionJob
from labeler.labels.records import LABELED
from labeler.pipeline import derive
from labeler.pipeline.derive import WITH_BOXES, open_derived, rescore_job
from labeler.pipeline.redo import SECOND_SCORES, Redo
from labeler.pipeline.session import Outcome, finish, new_run
from labeler.pipeline.source import ReadSettings, ShardWork, units_of
from labeler.pipeline.worker import WorkerSettings, commit, label_items, todo_of
from labeler.prompts import PromptPlan
from labeler.runs import Run, layout, read_snapshot
from labeler.runs.create import create_run, extend_plan
from labeler.runs.overlay.derived import select_units
from labeler.shards import ShardEnd


def label_here(config: Config, *, plan: PromptPlan | None = None) -> Run:
    """Label a config's input; with `plan` as a run whose prompts are packed so."""
    job = resolve_job(config, plan=plan)
    run = create_run(config.output.uri, new_run(job, plan=plan_input(config)))
    return work(run, job)


def extend_here(run: Run, config: Config) -> None:
    """Add to the plan what the input has more by now, and label it."""
    known = [planned.shard.uri for planned in read_snapshot(run).plan]
    extend_plan(run, plan_input(config, known=known, first_id=len(known)))
    work(run, resolve_job(config))


def revise_here(parent: Run, revision: RevisionJob, *, units: int | None = None) -> Run:
    """As `pipeline.revise.revise` with new passes; ends after that many `units`, as if it were killed."""
    redone = tuple(sorted(LABELED))
    opened = open_derived(parent, revision.job, redone)
    job, uri = opened.job, opened.job.config.output.uri
    run = opened.run or create_run(uri, new_run(job, parent=parent, whole=True))
    folders = tuple(folder for folder, _ in opened.below.progress.folders)
    return work(run, job, redo=Redo(folders, redone, change=revision.change), units=units)


def retry_here(parent: Run, statuses: Sequence[str], output: str, *overrides: str) -> Run:
    """As `pipeline.derive.retry`, with the work done in this process."""
    with patch.object(derive, "carry_out", _carry_out_here):
        outcome = derive.retry(parent, statuses, output, overrides=overrides)
    assert outcome is not None
    return outcome.run


def mask_here(parent: Run, output: str, *overrides: str) -> Run:
    """As `pipeline.derive.mask`, with the work done in this process."""
    with patch.object(derive, "carry_out", _carry_out_here):
        outcome = derive.mask(parent, output, overrides=overrides)
    assert outcome is not None
    return outcome.run


def _carry_out_here(job: Job, run: Run | None, left: Any, *, create: Any, redo: Redo, **options: Any) -> Outcome:
    return finish(read_snapshot(work(create(), job, redo=redo)))


def rescore_here(parent: Run, output: str, *overrides: str, units: int | None = None) -> Run:
    """As `pipeline.derive.rescore` with boxes; ends after that many `units`, as if it were killed."""
    opened = open_derived(parent, rescore_job(parent, output, overrides), WITH_BOXES)
    selection = select_units(opened.below, WITH_BOXES)
    run = opened.run or create_run(output, new_run(opened.job, parent=parent, selection=selection))
    folders = tuple(folder for folder, _ in opened.below.progress.folders)
    return work(run, opened.job, redo=Redo(folders, WITH_BOXES, True, adds=SECOND_SCORES), units=units)


def work(run: Run, job: Job, *, redo: Redo | None = None, units: int | None = None) -> Run:
    """Label the rest of a run, or that many of its next units."""
    snapshot, unit = read_snapshot(run), job.config.unit
    read = ReadSettings(run.root.uri, unit.images, unit.max_bytes, unit.max_image_bytes, job.config.read_keep, None)
    settings = WorkerSettings(
        run.uri,
        labeler_recipe(job),
        {},
        run.keep,
        job.config.detect.max_detections,
        columns=run.columns,
        names=job.per_image.load() if job.per_image else None,
        redo=redo,
    )
    labeler, done = settings.labeler(), 0
    for planned in snapshot.left:
        pending = snapshot.progress.pending.get(planned.shard_id)
        for found in units_of(ShardWork(planned, only=pending), read):
            if isinstance(found, ShardEnd):
                marker = layout.end_marker(found.shard_id, found.units, found.images)
                storage.put(run.path(marker), b"")
                continue
            if done == units:
                return run
            done += 1
            todo = todo_of(settings, found)
            rows, took = label_items(labeler, found.shard_id, todo.unit.items, run.keep)
            commit(settings, replace(todo), rows, took, labeler.description)
    finish(read_snapshot(run))
    return run

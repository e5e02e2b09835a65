"""The main job: plan or resume a run, and work it on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from labeler import storage
from labeler.config import Config
from labeler.errors import Refused
from labeler.job import (
    Job,
    absolute_uri,
    package_versions,
    plan_input,
    public_config,
    resolve_job,
)
from labeler.labeling import Detector
from labeler.pipeline.session import Outcome, carry_out, refusals
from labeler.runs.create import NewRun, create_run, extend_plan, require_free_or_ours
from labeler.runs.manifest import Run, open_run
from labeler.runs.plan import PlannedShard, read_plan, with_members
from labeler.runs.progress import read_progress


def label(
    config: Config,
    *,
    extend: bool = False,
    make_detector: Callable[[], Detector] | None = None,
    console: Console | None = None,
) -> Outcome:
    """Label every image of the input, resuming whatever the output folder already holds.

    Args:
        extend: list the input again and add what is new to the plan.
        make_detector: loads another detector than the config names in each worker (tests, other families).

    Raises:
        Refused: before anything is written: config, vocabulary, checkpoint, input, output or cluster is wrong.
        Incomplete: stopped by a signal, or two waves committed nothing; the same call goes on from there.
    """
    console = console or Console(stderr=True, highlight=False)
    job = resolve_job(config)
    output = absolute_uri(config.output.uri)
    with refusals():
        run = open_run(output)
        work = _plan_new(output, config) if run is None else _plan_rest(run, job, extend)
    return carry_out(
        job,
        run,
        work,
        create=lambda: _write_plan(run, output, work, job, extend, console),
        make_detector=make_detector,
        console=console,
    )


def _plan_new(output: str, config: Config) -> list[PlannedShard]:
    require_free_or_ours(output)
    return plan_input(config)


def _plan_rest(run: Run, job: Job, extend: bool) -> list[PlannedShard]:
    """What is left of a run, or with `extend` what its input holds beyond the plan (if anything, else what is left)."""
    run.require_fingerprint(job.fields)
    if not extend:
        _require_same_input(run, job.config)
    plan = read_plan(run)
    return (_new_shards(run, plan, job.config) if extend else []) or read_progress(run).left(plan)


def _write_plan(
    run: Run | None, output: str, work: Sequence[PlannedShard], job: Job, extend: bool, console: Console
) -> Run:
    """The first thing that is written: a new run, or another generation of the plan."""
    single_writer = job.config.output.single_writer
    if run is None:
        run = create_run(output, _new_run(job, work), single_writer=single_writer)
        console.print(f"run {run.manifest.run_id} in {storage.redact(output)}", markup=False, soft_wrap=True)
    elif extend:
        known = {planned.shard_id for planned in read_plan(run)}
        fresh = [planned for planned in work if planned.shard_id not in known]
        extend_plan(run, fresh, single_writer=single_writer)
        console.print(f"plan extended by {len(fresh):,} shards", markup=False)
    return run


def _new_run(job: Job, plan: Sequence[PlannedShard]) -> NewRun:
    return NewRun(job.fields, public_config(job.config), package_versions(), job.vocabulary, job.prompts, plan)


def _new_shards(run: Run, plan: Sequence[PlannedShard], config: Config) -> list[PlannedShard]:
    """What the input holds now and the plan does not: whole shards, or image files in groups of their own."""
    if config.input.limit is not None:
        raise Refused("--extend adds all that is new, input.limit wants only the first images; leave one of them out")
    known: set[str] = set()
    for planned in plan:
        members = with_members(planned.shard, run.uri).members
        known |= {planned.shard.uri} if members is None else {member.uri for member in members}
    return plan_input(config, known=known, first_id=len(plan))


def _require_same_input(run: Run, config: Config) -> None:
    """Resume never lists the input again, so another one would silently be ignored: refuse it instead."""
    public, recorded = public_config(config)["input"], run.manifest.config["input"]
    for name in ("uri", "format", "limit", "images_per_shard"):
        if public[name] != recorded[name]:
            raise Refused(
                f"output {storage.redact(run.uri)} holds a run over another input.{name} "
                f"({recorded[name]!r}, the config gives {public[name]!r}); choose another output, set it back, "
                "or add new shards with --extend"
            )

"""The main job: plan or resume a run, and work it on Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from labeler import storage
from labeler.config import Config
from labeler.errors import Refused, counted
from labeler.labeling.detector import UnitDetector
from labeler.labeling.fingerprint import public_config
from labeler.labeling.names.of_run import NamesOfRun
from labeler.labeling.resolve import Job, plan_input, resolve_job
from labeler.pipeline.budget import UNLIMITED, Budget
from labeler.pipeline.session import COMMAND_LINE, Caller, Outcome, carry_out, new_run, refusals
from labeler.pipeline.startup import Startup
from labeler.runs.create import create_run, extend_plan, require_free_or_ours, require_same_input
from labeler.runs.erasure.made import note_made
from labeler.runs.manifest import Run, open_run
from labeler.runs.plan import PlannedShard, generations, with_members
from labeler.runs.snapshot import Snapshot, read_snapshot
from labeler.terminal import add_context, message_console
from labeler.trial.names import require_names
from labeler.trial.sample import require_images


def label(
    config: Config,
    *,
    extend: bool = False,
    make_detector: Callable[[], UnitDetector] | None = None,
    console: Console | None = None,
    budget: Budget = UNLIMITED,
    caller: Caller = COMMAND_LINE,
    startup: Startup | None = None,
) -> Outcome:
    """Label every image of the input, resuming whatever the output folder already holds.

    Args:
        extend: list the input again and add what is new to the plan.
        make_detector: loads another detector than the config names in each worker (tests, other families).
        budget: ends the job early, as a signal does; for the main thread, which gets the signals.
        caller: as of `carry_out`.
        startup: with the steps so far.

    Raises:
        Refused: before anything is written: config, vocabulary, checkpoint, input, output or cluster is wrong.
        Incomplete: if a signal stopped the job or two waves committed nothing. Call again with the same config to
            resume.
    """
    console = console or message_console()
    with startup or Startup(console) as startup:
        return _label(
            config, startup, console, extend=extend, make_detector=make_detector, budget=budget, caller=caller
        )


def _label(
    config: Config,
    startup: Startup,
    console: Console,
    *,
    extend: bool,
    make_detector: Callable[[], UnitDetector] | None,
    budget: Budget,
    caller: Caller,
) -> Outcome:
    startup.step("checking the configuration and the model")
    job = resolve_job(config)
    output = storage.absolute_uri(config.output.uri)
    with refusals():
        run = open_run(output)
        if run is not None:
            run.require_detector("label --extend" if extend else "label")
        startup.step("listing the input" if run is None or extend else "reading the plan and what is committed")
        if run is not None and config.unit.max_images is None:
            job = job.as_planned(run.manifest.fingerprint_fields)
        todo = _plan_new(output, job) if run is None else _plan_rest(run, job, extend)
    return carry_out(
        job,
        run,
        todo.work,
        before=todo.before,
        create=lambda: _write_plan(run, output, todo, job, console),
        make_detector=make_detector,
        console=console,
        startup=startup,
        budget=budget,
        caller=caller,
    )


@dataclass(frozen=True)
class _Todo:
    """Shards to work on.

    Attributes:
        new_since: they are to be added to the plan, and were found when it had that many generations; None: they are in
            it, or are the first.
        skipped_files: what was listed beside them, by extension.
        before: the run whose plan they are of, as it was listed.
    """

    work: Sequence[PlannedShard]
    new_since: int | None = None
    skipped_files: Mapping[str, int] = field(default_factory=dict)
    before: Snapshot | None = None


def _plan_new(output: str, job: Job) -> _Todo:
    config = job.config
    require_free_or_ours(output)
    counts = Counter[str]()
    plan = plan_input(config, counts=counts)
    require_images(config, plan)
    if job.per_image is not None:
        require_names(job, job.per_image, plan)
    return _Todo(plan, skipped_files=counts)


def _plan_rest(run: Run, job: Job, extend: bool) -> _Todo:
    """Return what is left of a run, or with `extend` what its input holds beyond the plan (if anything, else what is
    left).
    """
    run.require_fingerprint(job.fields)
    if not extend:
        require_same_input(run, public_config(job.config)["input"])
    before = generations(run)  # before the plan: one that comes in between is noticed when it is added to
    snapshot = read_snapshot(run)
    counts = Counter[str]()
    fresh = _new_shards(run, snapshot.plan, job.config, counts) if extend else []
    return _Todo(fresh, before, counts) if fresh else _Todo(snapshot.left, before=snapshot)


def _write_plan(run: Run | None, output: str, todo: _Todo, job: Job, console: Console) -> Run:
    """The first thing that is written: a new run, or another generation of the plan."""
    single_writer = job.config.output.single_writer
    if run is None:
        new = new_run(job, plan=todo.work, skipped_files=todo.skipped_files)
        run = create_run(output, new, single_writer=single_writer)
        if isinstance(job.per_image, NamesOfRun):  # which has boxes of the same images
            note_made(job.per_image.snapshot().run, output)
        add_context(console, run=run.manifest.run_id)
        console.print(f"run {run.manifest.run_id} in {storage.redact(output)}", markup=False, soft_wrap=True)
    elif todo.new_since is not None:
        extend_plan(
            run,
            todo.work,
            skipped_files=todo.skipped_files,
            generation=todo.new_since,
            single_writer=single_writer,
        )
        console.print(f"plan extended by {counted(len(todo.work), 'shard')}", markup=False)
    return run


def _new_shards(run: Run, plan: Sequence[PlannedShard], config: Config, counts: Counter[str]) -> list[PlannedShard]:
    """Return what the input holds now and the plan does not: whole shards, or image files in groups of their own."""
    if config.input.limit is not None:
        raise Refused("--extend and input.limit cannot be combined; remove one")
    cut = next((planned for planned in plan if planned.shard.max_images is not None), None)
    if cut is not None:
        raise Refused(
            f"cannot extend: input.limit cut the plan inside {storage.redact(cut.shard.uri)}, whose remaining images "
            "would never be labeled; label the full input into a new output"
        )
    known: set[str] = set()
    for planned in plan:
        members = with_members(planned.shard, run.uri).members
        known |= {planned.shard.uri} if members is None else {member.uri for member in members}
    taken = {planned.shard.name for planned in plan if planned.shard.name is not None}
    return plan_input(config, known=known, taken=taken, first_id=len(plan), counts=counts)

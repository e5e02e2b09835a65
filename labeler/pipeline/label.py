"""The main job: plan or resume a run, work it in waves on Ray, report what came of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from labeler import storage
from labeler.config import Config
from labeler.display import Display
from labeler.errors import Incomplete, InputChanged, Refused, StorageError
from labeler.job import (
    Job,
    absolute_uri,
    detector_recipe,
    package_versions,
    plan_input,
    public_config,
    resolve_job,
    segmenter_recipe,
)
from labeler.labeling import Detector
from labeler.pipeline import cluster, waves
from labeler.pipeline.preflight import preflight
from labeler.pipeline.redo import Redo
from labeler.pipeline.source import ReadSettings
from labeler.pipeline.worker import WorkerSettings
from labeler.report import Report, build_report
from labeler.runs import layout
from labeler.runs.create import NewRun, create_run, extend_plan, require_free_or_ours
from labeler.runs.excluded import load_excluded, read_excluded, write_excluded
from labeler.runs.manifest import Run, open_run, readable_json
from labeler.runs.plan import PlannedShard, read_plan, with_members
from labeler.runs.progress import NOTHING, Progress, read_progress
from labeler.runs.selection import read_selection


@dataclass(frozen=True)
class Outcome:
    """What `label` returns for a complete run."""

    run: Run
    report: Report


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


def carry_out(
    job: Job,
    run: Run | None,
    work: Sequence[PlannedShard],
    *,
    create: Callable[[], Run],
    make_detector: Callable[[], Detector] | None,
    console: Console,
    redo: Redo | None = None,
) -> Outcome:
    """Check cluster and storage, write what is missing of the run, and work it to its end.

    Args:
        run: None where there is none yet.
        work: shards that are not finished.
        create: writes the run, or another generation of its plan; called once all is known to be well.
        redo: of a derived run.
    """
    output, single_writer = absolute_uri(job.config.output.uri), job.config.output.single_writer
    if run is not None and not work:
        console.print(f"run {run.manifest.run_id} is complete already; nothing to do", markup=False)
        return _finish(run, read_plan(run), read_progress(run))
    with refusals():  # from here first: it costs nothing yet, and this process writes the plan
        excluded = load_excluded(map(absolute_uri, job.config.input.exclude))
        storage.check_put_if_absent(output, single_writer=single_writer)
    started_here = cluster.connect(job.config.ray)
    with _stop_signals():
        with refusals():
            nodes = cluster.alive_nodes()
            workers = cluster.size_workers(job.config.ray, nodes)
            if started_here:
                cluster.require_capacity(workers, nodes)
            preflight(
                output,
                _first_uri(work[0], redo.folders[-1] if redo else output),
                single_writer=single_writer,
                timeout_s=job.config.ray.start_timeout_s,
            )
            run = create()
            write_excluded(run, excluded)
        plan = read_plan(run)
        progress = _work(run, plan, job, workers, _worker_settings(run, job, workers, make_detector, redo), console)
        return _finish(run, plan, progress)


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


@contextmanager
def refusals() -> Iterator[None]:
    """Until the first unit is labeled, storage that fails is a refusal: nothing was started that could go on."""
    try:
        yield
    except InputChanged:
        raise
    except StorageError as error:
        raise Refused(str(error)) from error


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


def _first_uri(planned: PlannedShard, plan_uri: str) -> str:
    """An object of the input that a worker can try to read."""
    shard = planned.shard
    if shard.format == "images":
        members = shard.members or with_members(shard, plan_uri).members or ()
        return members[0].uri
    return shard.uri


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


def _work(
    run: Run,
    plan: Sequence[PlannedShard],
    job: Job,
    workers: cluster.Workers,
    worker: WorkerSettings,
    console: Console,
) -> Progress:
    config = job.config
    progress = read_progress(run)
    images_per_shard, done = _images(run, plan, progress)
    console.print(f"{len(progress.left(plan)):,} of {len(plan):,} shards to do on {workers}", markup=False)
    with Display(done=done, images_per_shard=images_per_shard, console=console) as display:
        return waves.run_waves(
            run,
            plan,
            read=_read_settings(run, config),
            worker=worker,
            workers=workers,
            read_cpus=config.ray.read_cpus,
            read_tasks=config.ray.read_tasks,
            wave_units=config.ray.wave_units,
            seed=config.ray.seed,
            on_receipt=display.receive,
        )


def _read_settings(run: Run, config: Config) -> ReadSettings:
    unit = config.unit
    return ReadSettings(
        run.root.uri,
        unit.max_images,
        unit.max_bytes,
        unit.max_image_bytes,
        config.input.keep,
        config.input.image_column,
        read_excluded(run),
    )


def _worker_settings(
    run: Run,
    job: Job,
    workers: cluster.Workers,
    make_detector: Callable[[], Detector] | None,
    redo: Redo | None = None,
) -> WorkerSettings:
    config = job.config
    return WorkerSettings(
        run_uri=run.uri,
        make_detector=make_detector or (detector_recipe(job, threads=workers.threads) if job.checkpoint else None),
        make_segmenter=segmenter_recipe(job, threads=workers.threads),
        metadata={
            "run_id": run.manifest.run_id,
            "model_digest": job.fields["model"],
            "model_revision": (job.checkpoint and job.checkpoint.revision) or "",
            "prompts_fingerprint": job.prompts.fingerprint,
            "segmenter_digest": job.segmenter.digest if job.segmenter else "",
            **{f"version_{name}": version for name, version in package_versions().items()},
        },
        keep=config.input.keep,
        max_pixels=config.detect.max_pixels,
        max_detections=config.detect.max_detections,
        decode_threads=workers.threads,
        images_per_batch=config.detect.images_per_batch,
        single_writer=config.output.single_writer,
        redo=redo,
        stall_timeout_s=config.detect.stall_timeout_s,
    )


def _images(run: Run, plan: Sequence[PlannedShard], progress: Progress) -> tuple[Mapping[str, int | None], int]:
    """(images to label of each shard, how many of all earlier sessions did)."""
    if run.parent is None:
        return progress.images_per_shard(plan), _images_committed(plan, progress)
    chosen = read_selection(run)
    done = sum(n for shard, units in chosen.items() for unit, n in units.items() if progress.has(shard, unit))
    return {shard: sum(units.values()) for shard, units in chosen.items()}, done


def _images_committed(plan: Sequence[PlannedShard], progress: Progress) -> int:
    """Images of earlier sessions: from end markers, and from the footers of the units of unfinished shards."""
    done = 0
    for planned in plan:
        if progress.is_finished(planned.shard_id):
            done += progress.ends[planned.shard_id][1]
            continue
        for unit in progress.units.get(planned.shard_id, NOTHING):
            data = storage.read_bytes(progress.unit_uri(planned.shard_id, unit))
            done += pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
    return done


def _finish(run: Run, plan: Sequence[PlannedShard], progress: Progress) -> Outcome:
    report = build_report(run, plan, progress)
    storage.put(run.path(layout.REPORT), readable_json(report.to_dict()))
    if report.problems:
        raise Incomplete(f"run {storage.redact(run.uri)} is not sound: {'; '.join(report.problems[:3])}")
    return Outcome(run, report)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM (`ray job stop`, a preempted machine) ends the run like Ctrl-C; goes in after ray.init().

    KeyboardInterrupt and no exception of ours: code between here and the signal may well catch `Exception`.
    """
    received = "Ctrl-C"

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number).name
        raise KeyboardInterrupt

    on_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, stop) if on_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        raise Incomplete(f"stopped by {received}; run the same command again to go on") from None
    finally:
        if on_main_thread:
            signal.signal(signal.SIGTERM, previous)

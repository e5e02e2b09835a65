"""One session on a run: from a checked job to a run that is complete, or to the reason why it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from labeler import storage
from labeler.config import Config
from labeler.digests import readable_json
from labeler.errors import Incomplete, InputChanged, Refused, StorageError
from labeler.labeling.detector import UnitDetector
from labeler.labeling.fingerprint import package_versions, public_config
from labeler.labeling.names.per_image import NamesPerImage
from labeler.labeling.recipe import labeler_recipe
from labeler.labeling.resolve import Job, s3_rules
from labeler.pipeline import cluster, waves
from labeler.pipeline.blocks import Receipt
from labeler.pipeline.budget import UNLIMITED, Budget, Spending
from labeler.pipeline.capacity import CapacityWait, announcing_loss, await_workers, require_readers
from labeler.pipeline.connection import connect, is_connected, starts_ray
from labeler.pipeline.display import Display, JobProgress
from labeler.pipeline.gpus import require_gpus
from labeler.pipeline.metrics import Metrics
from labeler.pipeline.preflight import Checks, preflight, preflight_module, preflight_of_boxes, readable_uri
from labeler.pipeline.ray_news import only_reasons
from labeler.pipeline.ray_watch import watching_ray
from labeler.pipeline.redo import Redo
from labeler.pipeline.shared import Shared
from labeler.pipeline.source import ReadSettings
from labeler.pipeline.startup import Startup
from labeler.pipeline.stopping import Stopping, stopping
from labeler.pipeline.worker import WorkerSettings
from labeler.runs import layout
from labeler.runs.create import NewRun
from labeler.runs.erasure.excluded import Excluded, load_excluded, read_excluded, write_excluded
from labeler.runs.manifest import Run
from labeler.runs.overlay.chosen_units import read_selection
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import NOTHING, Progress
from labeler.runs.receipts import ReceiptLog
from labeler.runs.report import Report, build_report
from labeler.runs.rows import PREFETCH_FILES, read_unit_file
from labeler.runs.snapshot import Snapshot, read_snapshot
from labeler.shards import skipped
from labeler.terminal import add_context

_MOST_COUNTED = 1000  # unit files of earlier sessions that are read for the display, before the first image


@dataclass(frozen=True)
class Outcome:
    """Result of `label` for a complete run."""

    run: Run
    report: Report


@dataclass(frozen=True)
class Caller:
    """The parts of its process that a job may use, and the receiver of its progress.

    Attributes:
        signals: whether Ctrl-C and SIGTERM end the job in an orderly way.
        on_progress: called in the caller's thread; what it raises ends the job.
    """

    signals: bool = True
    on_progress: Callable[[JobProgress], None] | None = None

    def tell(self, progress: JobProgress) -> None:
        """Raises StoppedByCaller for what the caller's function raises."""
        if self.on_progress is None:
            return
        try:
            self.on_progress(progress)
        except Exception as error:
            raise waves.StoppedByCaller(error) from error


COMMAND_LINE = Caller()


def carry_out(
    job: Job,
    run: Run | None,
    work: Sequence[PlannedShard],
    *,
    before: Snapshot | None = None,
    create: Callable[[], Run],
    make_detector: Callable[[], UnitDetector] | None,
    console: Console,
    startup: Startup,
    redo: Redo | None = None,
    budget: Budget = UNLIMITED,
    caller: Caller = COMMAND_LINE,
) -> Outcome:
    """Check cluster and storage, write what is missing of the run, and work it to its end.

    Args:
        run: None where there is none yet.
        work: shards that are not finished.
        before: the run as it was listed; None where there is none yet, or `create` adds to its plan.
        create: writes the run, or another generation of its plan; called once all is known to be well.
        startup: with the steps so far.
        redo: of a derived run.
        budget: what ends the job before its work is done.
        caller: what it leaves to the job.
    """
    if run is not None:
        add_context(console, run=run.manifest.run_id)
    output, single_writer = storage.absolute_uri(job.config.output.uri), job.config.output.single_writer
    with refusals():
        excluded = load_excluded(map(storage.absolute_uri, job.config.input.exclude))
    if run is not None and not work:
        console.print(f"run {run.manifest.run_id} is complete already; nothing to do", markup=False)
        write_excluded(run, excluded)  # what is labeled by now is named at the end
        return finish(before or read_snapshot(run))
    budget.require_room(job.unit_seconds)
    with refusals():  # from here first: it costs nothing yet, and this process writes the plan
        storage.check_put_if_absent(output, single_writer=single_writer)
    joining = "starting Ray" if starts_ray(job.config.ray.address) else "joining the Ray cluster"
    startup.step(joining, now=not is_connected())  # while Ray starts, nothing can be printed
    if run is not None:
        warn_of_versions(run, "the run", console)
    patience, spending = CapacityWait(job.config.ray.start_timeout_s, console), Spending(budget)
    with stopping(signals=caller.signals) as signals, _cluster(job, console, signals) as started_here:
        with refusals():
            if make_detector is None and job.checkpoint is not None and job.checkpoint.module is not None:
                preflight_module(job.checkpoint.module, patience)
            startup.step("checking the cluster and the storage")
            workers = _workers(job, started_here, make_detector, patience, console)
            waits_s = cluster.limit_waiting(job.config.ray, workers)
            source = readable_uri(work, redo.folders[-1] if redo else output)
            models = None if started_here else labeler_recipe(job, threads=1, make_detector=make_detector)
            preflight(
                Checks(output, source, single_writer, s3_rules(job.config, job.own), models, package_versions()),
                patience,
                console,
                holds_worker=lambda node: workers.place.allows(node) and cluster.has_room(workers, [node["Resources"]]),
                reads=workers.read_place.allows,
            )
            recipe = labeler_recipe(job, make_detector=make_detector).of_boxes if run is None else None
            if recipe is not None:
                startup.step("trying the model for boxes on one image")
                preflight_of_boxes(recipe, workers, patience)
            run = create()
            add_context(console, run=run.manifest.run_id)
            write_excluded(run, excluded)
        snapshot = before or read_snapshot(run)
        settings = _worker_settings(run, job, workers, make_detector, redo)
        with announcing_loss(workers, waits_s, console), spending.watched(workers, signals, console):
            try:
                progress = _work(snapshot, job, workers, settings, console, startup, spending, caller.tell)
            except waves.StoppedByCaller as stopped:
                raise stopped.reason from None
        return finish(replace(snapshot, progress=progress))


def warn_of_versions(run: Run, name: str, console: Console) -> None:
    """Say which packages that decide pixels and scores are others than those that a run has rows of.

    Args:
        name: of the run, for people.
    """
    if changed := run.changed_versions(package_versions()):
        console.print(
            f"warning: {name} was started with {changed}; rows of both may differ a little",
            markup=False,
            soft_wrap=True,
        )


def new_run(job: Job, **more: Any) -> NewRun:
    """Return what a run of this job is started with; `more` are further fields of NewRun."""
    return NewRun(job.fields, public_config(job.config), package_versions(), job.vocabulary, job.plan, **more)


@contextmanager
def _cluster(job: Job, console: Console, signals: Stopping) -> Iterator[bool]:
    """Join or start Ray, and watch it; whether it was started here."""
    started_here = connect(job.config.ray.address, console)
    signals.install()
    cluster.configure_ray_data()
    with only_reasons(console), watching_ray(console, started_here=started_here):
        yield started_here


@contextmanager
def refusals() -> Iterator[None]:
    """Until the first unit is labeled, storage that fails is a refusal: nothing was started that could continue."""
    try:
        yield
    except InputChanged:
        raise
    except StorageError as error:
        raise Refused(str(error)) from error


def _workers(
    job: Job,
    started_here: bool,
    make_detector: Callable[[], UnitDetector] | None,
    patience: CapacityWait,
    console: Console,
) -> cluster.Workers:
    """The workers for the cluster, once there is room for one, and GPUs that are reserved can be used."""
    device, settings = job.config.model.device, job.config.ray
    if device == "cpu" and settings.gpus_per_worker is None:
        settings = settings.model_copy(update={"gpus_per_worker": 0.0})
    own = make_detector is None and device != "cpu"
    workers = await_workers(settings, started_here=started_here, gpus=own, patience=patience)
    if not started_here:
        require_readers(workers.read_place)
    if _needs_cuda(job, workers, make_detector):
        require_gpus(workers, patience, console)
    return workers


def _needs_cuda(job: Job, workers: cluster.Workers, make_detector: Callable[[], UnitDetector] | None) -> bool:
    """Return whether a worker has a GPU reserved for a model that runs on it by CUDA, as far as labeler chooses its
    device.
    """
    ours = make_detector is None or job.segmenter is not None
    return bool(workers.gpus) and ours and job.config.model.device.startswith(("auto", "cuda"))


def _work(
    snapshot: Snapshot,
    job: Job,
    workers: cluster.Workers,
    worker: WorkerSettings,
    console: Console,
    startup: Startup,
    spending: Spending,
    on_progress: Callable[[JobProgress], None],
) -> Progress:
    config, run, plan, progress = job.config, snapshot.run, snapshot.plan, snapshot.progress
    images_per_shard, done = _images(run, plan, progress, console)
    console.print(f"labeling {len(snapshot.left):,} of {len(plan):,} shards on {workers}", markup=False)
    metrics, excluded = Metrics(run.manifest.run_id), read_excluded(run)
    startup.step("loading the model", now=True)
    with (
        Display(
            done=done, images_per_shard=images_per_shard, console=console, startup=startup, on_progress=on_progress
        ) as display,
        keeping_receipts(run, excluded) as keep,
    ):

        def receive(receipt: Receipt) -> None:
            keep(receipt)
            metrics.receive(receipt)
            display.receive(receipt)

        return waves.run_waves(
            run,
            plan,
            progress,
            read=_read_settings(run, config, excluded),
            worker=worker,
            workers=workers,
            read_cpus=config.ray.read_cpus,
            read_tasks=config.ray.read_tasks or workers.readers,
            wave_units=config.ray.wave_units,
            seed=config.ray.seed,
            on_receipt=receive,
            on_trouble=display.trouble,
            on_ledger=spending.follow,
        )


@contextmanager
def keeping_receipts(run: Run, excluded: Excluded) -> Iterator[Callable[[Receipt], None]]:
    """Keep what the job writes for its report."""
    receipts = ReceiptLog(run, excluded)

    def keep(receipt: Receipt) -> None:
        if receipt.sums is not None and receipt.unit is not None:
            receipts.add(receipt.shard_id, receipt.unit, receipt.label_bytes, receipt.sums)

    try:
        yield keep
    finally:
        receipts.flush()


def _read_settings(run: Run, config: Config, excluded: Excluded) -> ReadSettings:
    unit = config.unit
    return ReadSettings(
        run.root.uri,
        unit.images,
        unit.max_bytes,
        unit.max_image_bytes,
        config.read_keep,
        config.input.image_column,
        Shared(excluded),
        s3_rules(config, run.lineage),
    )


def _worker_settings(
    run: Run,
    job: Job,
    workers: cluster.Workers,
    make_detector: Callable[[], UnitDetector] | None,
    redo: Redo | None = None,
) -> WorkerSettings:
    config = job.config
    return WorkerSettings(
        run_uri=run.uri,
        labeler=labeler_recipe(job, make_detector=make_detector),
        metadata={
            "run_id": run.manifest.run_id,
            "model_digest": job.fields["model"],
            "model_revision": (job.checkpoint and job.checkpoint.revision) or "",
            "prompts_fingerprint": job.plan.fingerprint,
            "segmenter_digest": job.segmenter.digest if job.segmenter else "",
            **({"rescorer_digest": job.rescorer.digest} if job.rescorer else {}),
            **{f"version_{name}": version for name, version in package_versions().items()},
        },
        keep=config.input.keep,
        max_detections=config.detect.max_detections,
        single_writer=config.output.single_writer,
        columns=run.columns,
        names=_names(job),
        redo=redo,
        stall_timeout_s=config.detect.stall_timeout_s,
        needs_cuda=_needs_cuda(job, workers, make_detector),
        workers=workers,
    )


def _names(job: Job) -> NamesPerImage | Shared[NamesPerImage] | None:
    if job.per_image is None:
        return None
    names = job.per_image.load()
    return Shared(names) if job.per_image.is_large else names


def _images(
    run: Run, plan: Sequence[PlannedShard], progress: Progress, console: Console
) -> tuple[Mapping[str, int | None], int]:
    """(images to label of each shard, how many of all earlier sessions did)."""
    if run.parent is None or run.manifest.whole:
        return progress.images_per_shard(plan), _images_committed(plan, progress, console)
    chosen = read_selection(run)
    done = sum(n for shard, units in chosen.items() for unit, n in units.items() if progress.has(shard, unit))
    return {shard: sum(units.values()) for shard, units in chosen.items()}, done


def _images_committed(plan: Sequence[PlannedShard], progress: Progress, console: Console) -> int:
    """Images of earlier sessions: from end markers, and from the units of unfinished shards.

    The number is for the display alone: of many units some are read, and a unit that cannot be read counts 0, in a line
    of warning.
    """
    finished = [p.shard_id for p in plan if progress.is_finished(p.shard_id)]
    begun = {p.shard_id for p in plan}.difference(finished)
    uris = [progress.unit_uri(id_, unit) for id_ in sorted(begun) for unit in progress.units.get(id_, NOTHING)]
    sample = uris[:: -(-len(uris) // _MOST_COUNTED) or 1]
    with ThreadPoolExecutor(PREFETCH_FILES) as pool:
        counts = list(pool.map(_images_of_unit, sample))
    unread = [count for count in counts if isinstance(count, StorageError)]
    if unread:
        console.print(
            f"warning: {len(unread):,} units of earlier sessions are not counted in what is done: {unread[0]}",
            markup=False,
        )
    read = sum(n for n in counts if isinstance(n, int))
    return sum(progress.ends[id_][1] for id_ in finished) + read * len(uris) // max(1, len(sample))


def _images_of_unit(uri: str) -> int | StorageError:
    try:
        return int(read_unit_file(uri, ("status",)).num_rows)
    except StorageError as error:
        return error


def finish(snapshot: Snapshot) -> Outcome:
    run, report = snapshot.run, build_report(snapshot)
    storage.put(run.path(layout.REPORT), readable_json(report.to_dict()))
    if not report.images:
        raise Incomplete(
            f"run {storage.redact(run.uri)} ended without an image"
            + (f"; its input holds {skipped.describe(report.skipped_files)}" if report.skipped_files else "")
        )
    if report.problems:
        raise Incomplete(f"run {storage.redact(run.uri)} is not sound: {'; '.join(report.problems[:3])}")
    return Outcome(run, report)

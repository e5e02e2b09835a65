"""Derived runs: rows of a complete run made again, to retry them or to give their boxes masks or second scores.

Readers lay one over its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from labeler import storage
from labeler.config import Config, config_of_run
from labeler.errors import Refused, did_you_mean
from labeler.labeling.detector import UnitDetector
from labeler.labeling.fingerprint import masks_fields, rescore_fields
from labeler.labeling.resolve import Job, mask_phrases, resolve_job, resolve_masks, resolve_rescorer, s3_rules
from labeler.labels.extensions import in_order, schema_fields
from labeler.labels.records import LABELED, STATUSES, UNLISTED
from labeler.labels.revised import Change
from labeler.pipeline.redo import MASKS, SECOND_SCORES, Redo
from labeler.pipeline.session import Outcome, carry_out, new_run, refusals
from labeler.pipeline.startup import Startup
from labeler.runs import Run, Snapshot, open_run, read_progress, read_snapshot
from labeler.runs.create import create_run
from labeler.runs.overlay.chosen_units import Selection
from labeler.runs.overlay.derived import count_unselected, describe_unselected, select_units
from labeler.terminal import message_console

READING = "reading what is committed"  # a step of the start


@dataclass(frozen=True)
class Opened:
    """A derived run and what it derives from, as they are now.

    Attributes:
        run: None where there is none yet.
        below: what it derives from, which is complete.
        before: the run, as it was listed.
    """

    job: Job
    run: Run | None
    below: Snapshot
    before: Snapshot | None


def open_derived(parent: Run, job: Job, redone: Sequence[str]) -> Opened:
    """Look at a run and at what was derived from it by the same job so far.

    Args:
        job: its output is the derived run; comes back with a fingerprint that names the parent and `redone` statuses.
            Optional columns in its fields (`columns`) come on top of the parent's.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
    """
    columns = in_order({*parent.columns, *job.fields.get("columns", ())})
    of_parent = {**schema_fields(columns), "parent": parent.manifest.run_id, "redo": list(redone)}
    job = replace(job, fields={**job.fields, **of_parent})
    below = read_snapshot(parent)
    if below.left:
        raise Refused(f"run {storage.redact(parent.uri)} has {len(below.left)} unfinished shards; finish it first")
    run = open_run(job.config.output.uri)
    if run is not None:
        run.require_fingerprint(job.fields)
    before = Snapshot(run, below.plan, read_progress(run, len(below.plan))) if run is not None else None
    return Opened(job, run, below, before)


def derive(
    parent: Run,
    job: Job,
    statuses: Collection[str],
    *,
    keep_detections: bool = False,
    change: Change | None = None,
    make_detector: Callable[[], UnitDetector] | None = None,
    console: Console | None = None,
    startup: Startup | None = None,
) -> Outcome | None:
    """Make the rows with one of `statuses` again; all others of their units are copied unchanged. Resumes where it
    stopped.

    Args:
        job: what to do; its output is the derived run, whose fingerprint also names the parent and `statuses`.
        keep_detections, change: as `Redo`; with `change` the derived run writes every unit.
        startup: with the steps so far.

    Returns:
        None where no row has such a status, and nothing was written.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
        Incomplete: as `label`.
    """
    output, redone = job.config.output.uri, tuple(sorted(statuses))
    whole = change is not None
    console = console or message_console()
    startup = startup or Startup(console)
    startup.step(READING)
    with startup, refusals():
        opened = open_derived(parent, job, redone)
        job, run, below, before = opened.job, opened.run, opened.below, opened.before
        chosen: Selection = {} if run is not None or whole else select_units(below, statuses)
        work = before.left if before is not None else [p for p in below.plan if whole or p.shard_id in chosen]
        unselected = count_unselected(run, below) if run is not None else 0
    if run is None and not chosen and not whole:
        return None
    if run is not None and unselected:
        said = describe_unselected(run, unselected)
        if not work:
            raise Refused(f"run {storage.redact(output)} is complete, but {said}")
        console.print(f"warning: {said}", markup=False, soft_wrap=True)
    new = new_run(job, parent=parent, selection=chosen, whole=whole)
    with startup:
        return carry_out(
            job,
            run,
            work,
            before=before,
            create=lambda: run or create_run(output, new, single_writer=job.config.output.single_writer),
            make_detector=make_detector,
            console=console,
            startup=startup,
            redo=Redo(
                tuple(folder for folder, _ in below.progress.folders),
                redone,
                keep_detections,
                change,
                adds=SECOND_SCORES if job.rescorer else MASKS,
            ),
        )


def config_of(run: Run, output: str, overrides: Sequence[str]) -> Config:
    """The configuration that a run was made with, for another output; its input is that of the plan."""
    values = {**run.manifest.config, "output": {**run.manifest.config["output"], "uri": output}}
    return config_of_run(values, overrides, where=f"the config of run {storage.redact(run.uri)}")


RETRIED = tuple(status for status in STATUSES if status not in (*LABELED, "removed", UNLISTED))
_RETRY_MAY_DIFFER = ("detect.max_pixels",)  # fields of the fingerprint that change no row which succeeded


def retry(
    parent: Run,
    statuses: Collection[str],
    output: str,
    *,
    overrides: Sequence[str] = (),
    make_detector: Callable[[], UnitDetector] | None = None,
    console: Console | None = None,
    startup: Startup | None = None,
) -> Outcome | None:
    """Label the images of a complete run that have one of `statuses` again, as the run did, into a derived run.

    Args:
        overrides: `section.key=value`; only what decides no row that succeeded, so workers, device and the pixel limit.
        startup: with the steps so far.

    Returns:
        None where no image has such a status, and nothing was written.

    Raises:
        Refused: the run is incomplete, its model or input is not there any more, or an override would change rows.
        Incomplete: as `label`.
    """
    unknown = sorted(set(statuses) - set(RETRIED))
    if unknown:
        near = did_you_mean(unknown[0], RETRIED)
        raise Refused(f"cannot retry status {unknown[0]!r}{near}; choose from {', '.join(RETRIED)}")
    parent.require_detector("retry")
    parent.require_reader()
    if "rescore" in parent.manifest.fingerprint_fields:
        raise Refused(
            f"run {storage.redact(parent.uri)} has second scores, and new boxes would have none; retry the run that it "
            "derives from, then use `labeler rescore` on the result"
        )
    job = resolve_job(config_of(parent, output, overrides), parent.vocabulary(), parent.lineage, parent.prompts())
    recorded = parent.manifest.fingerprint_fields
    inherited = {name: value for name, value in recorded.items() if name not in job.fields}  # a derived parent's own
    same = {**inherited, **schema_fields(parent.columns), **{name: recorded[name] for name in _RETRY_MAY_DIFFER}}
    parent.require_fingerprint({**job.fields, **same})
    return derive(parent, job, statuses, make_detector=make_detector, console=console, startup=startup)


WITH_BOXES = ("labeled",)
_MAY_DIFFER = ("ray.", "model.device=", "model.dtype=", "detect.stall_timeout_s=", "output.")  # of models for boxes


def mask(parent: Run, output: str, *, overrides: Sequence[str], startup: Startup | None = None) -> Outcome | None:
    """Masks for a run's stored boxes, by the model that `masks.model=` names, into a derived run.

    Args:
        overrides: `section.key=value`, `masks.model` among them unless the run has it already.
        startup: with the steps so far.

    Returns:
        None where no image has a box, and nothing was written.

    Raises:
        Refused: no segmenter is named, an override is about something that a mask run does not do, or as `derive`.
        Incomplete: as `label`.
    """
    _require_about(overrides, "masks", "masks.")
    parent.require_reader()
    config = config_of(parent, output, overrides)
    s3_rules(config, parent.lineage).apply()
    segmenter = resolve_masks(config)
    if segmenter is None:
        raise Refused("no model makes masks: name one of the SAM family, masks.model=facebook/sam2.1-hiera-small")
    recorded = parent.manifest.fingerprint_fields
    phrases = mask_phrases(config, segmenter, parent.vocabulary())
    boxes = {name: value for name, value in recorded.items() if name != "masks" and not name.startswith("masks.")}
    fields = boxes | masks_fields(config, segmenter, phrases)
    job = Job(config, parent.vocabulary(), parent.prompts(), None, fields, segmenter, phrases, parent.lineage)
    return derive(parent, job, WITH_BOXES, keep_detections=True, startup=startup)


def rescore(
    parent: Run,
    output: str,
    *,
    overrides: Sequence[str],
    console: Console | None = None,
    startup: Startup | None = None,
) -> Outcome | None:
    """A second score for a run's stored boxes, by the model that `rescore.model=` names, into a derived run.

    Args:
        overrides: `section.key=value`, `rescore.model` among them unless the run has it already.
        startup: with the steps so far.

    Returns:
        None where no image has a box, and nothing was written.

    Raises:
        Refused: if no CLIP or SigLIP is named, an override is about something that is not done here, or as `derive`.
        Incomplete: as `label`.
    """
    job = rescore_job(parent, output, overrides)
    return derive(parent, job, WITH_BOXES, keep_detections=True, console=console, startup=startup)


def rescore_job(parent: Run, output: str, overrides: Sequence[str]) -> Job:
    """The job of `rescore`, which it also says the arguments of. Refused as there, but for what `derive` refuses."""
    _require_about(overrides, "second scores", "rescore.")
    parent.require_reader()
    config = config_of(parent, output, overrides)
    s3_rules(config, parent.lineage).apply()
    vocabulary = parent.vocabulary()
    rescorer, texts = resolve_rescorer(config, vocabulary)
    assert config.rescore is not None, "resolve_rescorer says it"
    recorded = parent.manifest.fingerprint_fields
    boxes = {name: value for name, value in recorded.items() if name != "rescore" and not name.startswith("rescore.")}
    columns = schema_fields(in_order({*parent.columns, "score2"}))
    fields = boxes | columns | rescore_fields(config.rescore, rescorer, texts.fingerprint)
    return Job(config, vocabulary, parent.prompts(), None, fields, own=parent.lineage, rescorer=rescorer, texts=texts)


def _require_about(overrides: Sequence[str], what: str, section: str) -> None:
    """Refused where an override is about something that a run which only adds `what` does not do."""
    known = (section, *_MAY_DIFFER)
    for override in overrides:
        if not override.strip().startswith(known):
            raise Refused(f"{override!r} decides nothing about {what}; what can be set here: {', '.join(known)}")

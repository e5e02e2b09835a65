"""Retry: a derived run that labels the failed images of a complete run once more; readers lay it over that run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from rich.console import Console

from labeler import storage
from labeler.config import Config, make_config
from labeler.errors import Refused
from labeler.job import Job, package_versions, public_config, resolve_job
from labeler.labeling import Detector
from labeler.pipeline.label import Outcome, carry_out, refusals
from labeler.pipeline.redo import Redo
from labeler.records import STATUSES
from labeler.runs import Run, open_run, read_plan, read_progress
from labeler.runs.create import NewRun, create_run
from labeler.runs.derived import select_units

RETRIED = tuple(status for status in STATUSES if status not in ("labeled", "empty", "removed"))
MAY_DIFFER = ("detect.max_pixels",)  # fields of the fingerprint that change no row which succeeded


def retry(
    parent: Run,
    statuses: Collection[str],
    output: str,
    *,
    overrides: Sequence[str] = (),
    make_detector: Callable[[], Detector] | None = None,
    console: Console | None = None,
) -> Outcome | None:
    """Label the images of a complete run that have one of `statuses` anew, as the run did, into a derived run.

    All other rows of a unit that holds such an image are taken over as they are. Goes on with what `output` holds.

    Args:
        overrides: `section.key=value`; only what decides no row that succeeded, so workers, device and the pixel limit.

    Returns:
        None where no image has such a status, and nothing was written.

    Raises:
        Refused: the run is incomplete, its model or input is not there any more, or an override would change rows.
        Incomplete: as `label`.
    """
    console = console or Console(stderr=True, highlight=False)
    unknown = sorted(set(statuses) - set(RETRIED))
    if unknown:
        raise Refused(f"status {unknown[0]!r} cannot be retried; known here: {', '.join(RETRIED)}")
    with refusals():
        plan, below = read_plan(parent), read_progress(parent)
        if left := below.left(plan):
            raise Refused(f"run {storage.redact(parent.uri)} has {len(left)} unfinished shards; finish it first")
        job = _job_of(parent, statuses, output, overrides)
        chosen = select_units(plan, below, statuses)
        run = open_run(output)
    if run is not None:
        run.require_fingerprint(job.fields)
    elif not chosen:
        return None
    new = NewRun(
        job.fields, public_config(job.config), package_versions(), job.vocabulary, job.prompts,
        parent=parent, selection=chosen,
    )  # fmt: skip
    return carry_out(
        job,
        run,
        [p for p in plan if p.shard_id in chosen] if run is None else read_progress(run).left(plan),
        create=lambda: run or create_run(output, new, single_writer=job.config.output.single_writer),
        make_detector=make_detector,
        console=console,
        redo=Redo(tuple(folder for folder, _ in below.folders), tuple(sorted(statuses))),
    )


def _job_of(parent: Run, statuses: Collection[str], output: str, overrides: Sequence[str]) -> Job:
    """The job of the parent, with a fingerprint of its own that names the parent."""
    job = resolve_job(config_of(parent, output, overrides), parent.vocabulary())
    recorded = parent.manifest.fingerprint_fields
    inherited = {name: value for name, value in recorded.items() if name not in job.fields}  # a derived parent's own
    parent.require_fingerprint({**job.fields, **inherited, **{name: recorded[name] for name in MAY_DIFFER}})
    return replace(job, fields={**job.fields, "parent": parent.manifest.run_id, "redo": sorted(statuses)})


def config_of(run: Run, output: str, overrides: Sequence[str]) -> Config:
    """The configuration that a run was made with, for another output; its input is that of the plan."""
    values = {**run.manifest.config, "output": {**run.manifest.config["output"], "uri": output}}
    return make_config(values, overrides, where=f"the config of run {storage.redact(run.uri)}")

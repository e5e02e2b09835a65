"""A derived run on the cluster: some rows of a complete run made anew; readers lay it over that run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from labeler import storage
from labeler.config import Config, config_of_run
from labeler.errors import Refused
from labeler.labeling.detector import Detector
from labeler.labeling.fingerprint import package_versions, public_config
from labeler.labeling.resolve import Job
from labeler.pipeline.redo import Redo
from labeler.pipeline.session import Outcome, carry_out, refusals
from labeler.runs import Run, open_run, read_progress, read_snapshot
from labeler.runs.create import NewRun, create_run
from labeler.runs.overlay.chosen_units import Selection
from labeler.runs.overlay.derived import count_unselected, describe_unselected, select_units
from labeler.terminal import message_console


def derive(
    parent: Run,
    job: Job,
    statuses: Sequence[str],
    *,
    keep_detections: bool = False,
    make_detector: Callable[[], Detector] | None = None,
    console: Console | None = None,
) -> Outcome | None:
    """Make the rows with one of `statuses` anew; all others of their units are taken over. Goes on where it stopped.

    Args:
        job: what to do; its fields name the parent, its output is the derived run.
        keep_detections: as `Redo`.

    Returns:
        None where no row has such a status, and nothing was written.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
        Incomplete: as `label`.
    """
    output = job.config.output.uri
    with refusals():
        below = read_snapshot(parent)
        plan = below.plan
        if below.left:
            raise Refused(f"run {storage.redact(parent.uri)} has {len(below.left)} unfinished shards; finish it first")
        run = open_run(output)
        if run is not None:
            run.require_fingerprint(job.fields)
        chosen: Selection = {} if run is not None else select_units(below, statuses)
        work = read_progress(run).left(plan) if run is not None else [p for p in plan if p.shard_id in chosen]
        unselected = count_unselected(run, below) if run is not None else 0
    if run is None and not chosen:
        return None
    console = console or message_console()
    if run is not None and unselected:
        said = describe_unselected(run, unselected)
        if not work:
            raise Refused(f"run {storage.redact(output)} is complete, but {said}")
        console.print(f"warning: {said}", markup=False, soft_wrap=True)
    new = NewRun(
        job.fields, public_config(job.config), package_versions(), job.vocabulary, job.plan,
        parent=parent, selection=chosen,
    )  # fmt: skip
    return carry_out(
        job,
        run,
        work,
        create=lambda: run or create_run(output, new, single_writer=job.config.output.single_writer),
        make_detector=make_detector,
        console=console,
        redo=Redo(tuple(folder for folder, _ in below.progress.folders), tuple(sorted(statuses)), keep_detections),
    )


def config_of(run: Run, output: str, overrides: Sequence[str]) -> Config:
    """The configuration that a run was made with, for another output; its input is that of the plan."""
    values = {**run.manifest.config, "output": {**run.manifest.config["output"], "uri": output}}
    return config_of_run(values, overrides, where=f"the config of run {storage.redact(run.uri)}")


def derived_fields(parent: Run, fields: dict[str, object], statuses: Sequence[str]) -> dict[str, object]:
    """A fingerprint that names the parent and which of its rows are made anew."""
    return {**fields, "parent": parent.manifest.run_id, "redo": sorted(statuses)}

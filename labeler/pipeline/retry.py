"""Retry: a derived run that labels the failed images of a complete run once more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from rich.console import Console

from labeler.errors import Refused
from labeler.labeling.detector import Detector
from labeler.labeling.resolve import resolve_job
from labeler.labels.records import STATUSES
from labeler.pipeline.derive import config_of, derive, derived_fields
from labeler.pipeline.session import Outcome
from labeler.runs import Run

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

    Args:
        overrides: `section.key=value`; only what decides no row that succeeded, so workers, device and the pixel limit.

    Returns:
        None where no image has such a status, and nothing was written.

    Raises:
        Refused: the run is incomplete, its model or input is not there any more, or an override would change rows.
        Incomplete: as `label`.
    """
    unknown = sorted(set(statuses) - set(RETRIED))
    if unknown:
        raise Refused(f"status {unknown[0]!r} cannot be retried; known here: {', '.join(RETRIED)}")
    parent.require_reader()
    job = resolve_job(config_of(parent, output, overrides), parent.vocabulary(), parent.lineage)
    recorded = parent.manifest.fingerprint_fields
    inherited = {name: value for name, value in recorded.items() if name not in job.fields}  # a derived parent's own
    parent.require_fingerprint({**job.fields, **inherited, **{name: recorded[name] for name in MAY_DIFFER}})
    job = replace(job, fields=derived_fields(parent, job.fields, sorted(statuses)))
    return derive(parent, job, sorted(statuses), make_detector=make_detector, console=console)

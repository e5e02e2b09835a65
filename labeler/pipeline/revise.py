"""A run with another vocabulary: what stays is copied unchanged, and only the new prompt chunks are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from labeler import storage
from labeler.labeling.detector import UnitDetector
from labeler.labeling.revision import RevisionJob
from labeler.labels.detections import Detections
from labeler.labels.records import LABELED, Row
from labeler.labels.revised import Change
from labeler.pipeline.derive import derive
from labeler.pipeline.rewrite import rewrite
from labeler.pipeline.session import Outcome, warn_of_versions
from labeler.pipeline.startup import Startup
from labeler.runs import Run, UnitKey
from labeler.terminal import message_console

_REDONE = tuple(sorted(LABELED))


def revise(
    parent: Run,
    revision: RevisionJob,
    *,
    make_detector: Callable[[], UnitDetector] | None = None,
    console: Console | None = None,
    startup: Startup | None = None,
) -> Outcome:
    """Make the derived run of a changed vocabulary, or continue where that stopped.

    Images that the run could not label stay as they are; `labeler retry` of the derived run labels those.

    Args:
        startup: with the steps so far.

    Raises:
        Refused: the run is incomplete, or the output holds something else.
        Incomplete: as `label`.
    """
    if not revision.revision.new_passes:  # names are only removed, or have other ids: no image is read
        return rewrite(parent, revision.job, partial(_changed, revision.change))
    console = console or message_console()
    warn_of_versions(parent, f"run {storage.redact(parent.uri)}", console)
    outcome = derive(
        parent,
        revision.job,
        _REDONE,
        change=revision.change,
        make_detector=make_detector,
        console=console,
        startup=startup,
    )
    assert outcome is not None  # it writes every unit, whatever is in it
    return outcome


def _changed(change: Change, unit: UnitKey, earlier: Sequence[Row]) -> list[Row]:
    return [change.apply(replace(row, detections=Detections.empty()), row) for row in earlier]

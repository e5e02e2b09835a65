"""One task of a DAG: a plain function that a scheduler calls, and may call again (docs/guides/python.md)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import labeler

log = logging.getLogger(__name__)


def label_task(config: Mapping[str, Any], *, threshold: float = 0.4) -> dict[str, Any]:
    """Label the input, export COCO beside the labels, and return what the next task needs.

    A second call with the same config resumes the run, so a scheduler's retry loses nothing. Retries do not help
    after labeler.Refused: let the task fail at once.
    """
    run = labeler.label(config, on_progress=lambda now: log.info("%s of %s images", now.images, now.total))
    exported = labeler.export(run, "coco", threshold=threshold)
    report = run.report()
    return {
        "run": run.uri,
        "images": report.images,
        "statuses": dict(report.statuses),
        "labels": exported.uri,
        "annotations": exported.totals.annotations,
    }

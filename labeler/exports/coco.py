"""COCO export of a whole run as one JSON file: the plain case, for Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labeler.exports.coco_files import CocoFormat
from labeler.exports.export import export_run
from labeler.exports.selection import Selection
from labeler.labels.thresholds import Thresholds
from labeler.runs import PlannedShard, Progress, Run


@dataclass(frozen=True)
class CocoSummary:
    """What an export wrote, and the images it left out because no pixels could be labeled, by status."""

    uri: str
    images: int
    annotations: int
    left_out: dict[str, int]


def export_coco(
    run: Run,
    plan: Sequence[PlannedShard],
    progress: Progress,
    target_uri: str,
    *,
    thresholds: Thresholds | None = None,
    suppress_iou: float | None = None,
) -> CocoSummary:
    """Write the run as one COCO file.

    Image ids count from 1 in key order over all rows, so they do not move when thresholds change; images that could
    not be labeled keep their id but are left out, because a trainer would take them for images without objects.
    Boxes become xywh here and nowhere else; `iscrowd` is 0, `score` is kept.

    Args:
        thresholds: applied first; None keeps everything stored.
        suppress_iou: then drop a box that overlaps a better one of any category by more than this IoU.
    """
    selection = Selection(thresholds=thresholds or Thresholds(), suppress_iou=suppress_iou)
    done = export_run(run, plan, progress, selection, CocoFormat(), target_uri, single_file=True).totals
    return CocoSummary(target_uri, sum(done.images.values()), done.annotations, dict(done.left_out))

"""`labeler export`: a run in the formats of trainers, without a GPU."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs, require_run


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("export", help="write a run's labels for trainers, without a GPU")
    parser.add_argument("run_uri", metavar="RUN", help="the run folder")
    parser.add_argument("--to", choices=["coco"], required=True, help="the format")
    parser.add_argument("--output", metavar="URI", help="file to write (default RUN/exports/coco.json)")
    parser.add_argument("--threshold", type=float, default=0.0, help="keep detections with at least this score")
    parser.add_argument("--thresholds", metavar="FILE", help="YAML with a threshold per category")
    parser.add_argument(
        "--suppress", type=float, metavar="IOU", help="of boxes overlapping more, keep the best of any category"
    )
    parser.add_argument("--partial", action="store_true", help="export an incomplete run as far as it is")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from labeler.errors import Refused
    from labeler.exports.coco import export_coco
    from labeler.exports.thresholds import Thresholds, thresholds_for
    from labeler.runs import read_plan, read_progress

    run = require_run(arguments.run_uri)
    plan, progress = read_plan(run), read_progress(run)
    left = progress.left(plan)
    if left and not arguments.partial:
        raise Refused(
            f"run {storage.redact(run.uri)} is incomplete ({len(left)} of {len(plan)} shards unfinished); "
            "finish it with the label command, or export what there is with --partial"
        )
    if not 0 <= arguments.threshold <= 1:
        raise Refused(f"--threshold is a score from 0 to 1, got {arguments.threshold}")
    thresholds = Thresholds(arguments.threshold)
    if arguments.thresholds:
        thresholds = thresholds_for(run, arguments.thresholds, default=arguments.threshold)
    target = arguments.output or run.path("exports/coco.json")
    summary = export_coco(run, plan, progress, target, thresholds=thresholds, suppress_iou=arguments.suppress)
    print(f"{storage.redact(target)}: {summary.images:,} images, {summary.annotations:,} annotations")
    if summary.left_out:
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(summary.left_out.items()))
        print(f"left out, because they could not be labeled: {reasons}")
    return 0

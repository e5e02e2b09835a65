"""`labeler report`: a run as one HTML file to look at, choose thresholds in and mark boxes."""

from __future__ import annotations

import argparse
from dataclasses import replace

from labeler import storage
from labeler.commands.arguments import Verbs, require_replaceable_page, require_snapshot
from labeler.commands.score_options import add_score, read_score


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("report", help="one HTML file: counts, galleries, thresholds to choose, boxes to mark")
    parser.add_argument("run_uri", metavar="RUN", help="run folder")
    written = parser.add_argument_group("output")
    written.add_argument("--output", metavar="URI", help="file to write (default: RUN/report.html)")
    truth = parser.add_argument_group("ground truth")
    truth.add_argument(
        "--annotations", metavar="URI", help="ground truth for curves and errors: COCO or LVIS JSON, or a corrected run"
    )
    truth.add_argument(
        "--categories-by-name", action="store_true", help="match categories by name and ignore their IDs"
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--threshold", type=float, default=0.3, metavar="SCORE", help="score at which the sliders start (default: 0.3)"
    )
    shown.add_argument("--thresholds", metavar="FILE", help="YAML file with a start of the sliders per category")
    add_score(shown)
    shown.add_argument("--images", type=int, default=400, metavar="N", help="most images to show (default: 400)")
    shown.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of images (default: 0)")
    shown.add_argument(
        "--partial", action="store_true", help="accept an incomplete run, or one without some of the annotated images"
    )
    written.add_argument("--force", action="store_true", help="replace a file that is not a page by labeler")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from labeler.errors import Refused
    from labeler.review import write_report
    from labeler.runs import layout
    from labeler.runs.erasure.made import note_made
    from labeler.runs.fitted_on import thresholds_for

    snapshot = require_snapshot(arguments, "report")
    run = snapshot.run
    if not 0 <= arguments.threshold <= 1:
        raise Refused(f"--threshold is a score from 0 to 1, got {arguments.threshold}")
    if arguments.images < 0 or arguments.seed < 0:
        raise Refused(f"--images and --seed are 0 or more, got {arguments.images} and {arguments.seed}")
    score = read_score(arguments, run)
    thresholds = thresholds_for(run, arguments.thresholds, default=arguments.threshold, score=score)
    target = arguments.output or run.path(layout.PAGE)
    replaced = require_replaceable_page(target, force=arguments.force)
    note_made(run, storage.absolute_uri(target))
    summary = write_report(
        replace(snapshot, score=score),
        target,
        thresholds=thresholds,
        max_images=arguments.images,
        annotations=arguments.annotations,
        by_name=arguments.categories_by_name,
        partial=arguments.partial,
        seed=arguments.seed,
    )
    more = f", {summary.left_out:,} more would not fit" if summary.left_out else ""
    print(f"{storage.redact(target)}: {summary.images:,} images{more}, {summary.size_bytes / 1e6:.1f} MB")
    if replaced:
        print(f"replaces: {replaced}")
    if summary.unreadable:
        print(f"{summary.unreadable:,} images could not be read; the report says why")
    return 0

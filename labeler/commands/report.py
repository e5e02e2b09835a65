"""`labeler report`: a run as one HTML file to look at, choose thresholds in and mark boxes."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs, require_replaceable_page, require_snapshot


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("report", help="one HTML file: counts, galleries, thresholds to choose, boxes to mark")
    parser.add_argument("run_uri", metavar="RUN", help="the run folder")
    parser.add_argument("--output", metavar="URI", help="file to write (default RUN/report.html)")
    parser.add_argument(
        "--annotations", metavar="URI", help="truth: COCO or LVIS json, or a corrected run: curves and errors, too"
    )
    parser.add_argument("--categories-by-name", action="store_true", help="match them by name, whatever the ids")
    parser.add_argument("--threshold", type=float, default=0.3, help="where the sliders start (default 0.3)")
    parser.add_argument("--thresholds", metavar="FILE", help="the same from a YAML file, a threshold per category")
    parser.add_argument("--images", type=int, default=400, metavar="N", help="images to show, at most (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="another seed shows other images (default 0)")
    parser.add_argument(
        "--partial", action="store_true", help="an incomplete run, or one without some of the annotated images"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is not a page by labeler")
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
    thresholds = thresholds_for(run, arguments.thresholds, default=arguments.threshold)
    target = arguments.output or run.path(layout.PAGE)
    replaced = require_replaceable_page(target, force=arguments.force)
    note_made(run, storage.absolute_uri(target))
    summary = write_report(
        snapshot,
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

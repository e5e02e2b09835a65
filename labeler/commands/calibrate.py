"""`labeler calibrate`: score thresholds that reach a precision, from ground truth or marked boxes, without a GPU."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs, require_replaceable, require_snapshot, written
from labeler.commands.score_options import add_score
from labeler.errors import Refused

_REPLACEABLE = "a file as `labeler calibrate` wrote it: it was edited, or made otherwise"


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("calibrate", help="fit a score threshold per category, from truth or marks")
    parser.add_argument("run_uri", metavar="RUN", help="run folder")
    truth = parser.add_argument_group("evidence")
    evidence = truth.add_mutually_exclusive_group(required=True)
    evidence.add_argument(
        "--annotations", metavar="URI", help="ground truth of some images: COCO or LVIS JSON, or a corrected run"
    )
    evidence.add_argument(
        "--marks",
        action="append",
        metavar="URI",
        help="boxes that were marked right or wrong (JSON of a report), or a corrected run; repeatable",
    )
    truth.add_argument("--sample", metavar="FILE", help="with --marks: sample whose boxes are marked")
    wanted = parser.add_argument_group("target")
    wanted.add_argument(
        "--target",
        required=True,
        metavar="precision=P",
        help="precision or recall to reach, e.g. precision=0.9 or recall=0.5",
    )
    add_score(truth, fusion=False)
    wanted.add_argument(
        "--confidence", type=float, default=0.9, metavar="P", help="confidence of reaching it (default: 0.9)"
    )
    wanted.add_argument(
        "--min-judged",
        type=int,
        default=30,
        metavar="N",
        help="fewer evaluated boxes make a category rare (default: 30)",
    )
    truth.add_argument(
        "--categories-by-name", action="store_true", help="match categories by name and ignore their IDs"
    )
    truth.add_argument("--partial", action="store_true", help="accept an incomplete run; use what both sides have")
    written = parser.add_argument_group("output")
    written.add_argument(
        "--all", action="store_true", help="print every category, not only the worst and the most evaluated ones"
    )
    written.add_argument("--output", metavar="URI", help="YAML file to write (default: RUN/thresholds.yaml)")
    written.add_argument(
        "--force", action="store_true", help="replace a file that was edited or that labeler did not write"
    )
    parser.set_defaults(run=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    from labeler.calibration import parse_target
    from labeler.calibration.by_score import calibrate_by_score
    from labeler.calibration.designs import joined
    from labeler.calibration.reviews import read_judgments
    from labeler.calibration.threshold_file import describe, describe_unedited, to_yaml
    from labeler.exports.sampled import read_sample
    from labeler.runs import layout
    from labeler.runs.fitted_on import require_second_scores

    if arguments.sample and not arguments.marks:
        raise Refused("--sample goes with --marks: the boxes that were drawn, and what people said of them")
    target = parse_target(arguments.target, confidence=arguments.confidence, min_judged=arguments.min_judged)
    snapshot = require_snapshot(arguments, "calibrate on")
    run = snapshot.run
    output = arguments.output or run.path(layout.THRESHOLDS)
    replaced = require_replaceable(output, describe_unedited, _REPLACEABLE, force=arguments.force)
    require_second_scores(run, arguments.score)
    calibration, score, lines = calibrate_by_score(
        snapshot,
        target,
        arguments.score,
        annotations=arguments.annotations,
        marks=joined([read_judgments(uri, run) for uri in arguments.marks]) if arguments.marks else None,
        sample=read_sample(arguments.sample, run) if arguments.sample else None,
        by_name=arguments.categories_by_name,
        partial=arguments.partial,
    )
    source = ", ".join(storage.redact(uri) for uri in [arguments.annotations, *(arguments.marks or ())] if uri)
    storage.put(output, to_yaml(calibration, run, source=source, score=score))
    table = describe(calibration, run, all_rows=arguments.all)
    print("\n".join([*lines, *table, "", written(output, replaced)]))
    return 0

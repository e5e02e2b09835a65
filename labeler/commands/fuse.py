"""`labeler fuse`: runs of several detectors over the same images, as one derived run; no image is read."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs, add_log_format, print_result, require_run
from labeler.commands.label import describe
from labeler.errors import Refused

_IOU = 0.55  # as Solovyev et al.


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("fuse", help="fuse the boxes of several runs over the same images into a derived run")
    parser.add_argument(
        "run_uris",
        nargs="+",
        metavar="RUN",
        help="complete runs over the same images; the result derives from the first",
    )
    parser.add_argument("--output", metavar="URI", help="folder of the derived run (default: RUN-fused)")
    parser.add_argument(
        "--method",
        choices=("wbf", "nms"),
        default="wbf",
        help="fuse by weighted boxes fusion, or keep the best box (default: wbf)",
    )
    parser.add_argument(
        "--iou",
        type=float,
        default=_IOU,
        metavar="IOU",
        help=f"boxes that overlap more are of one object (default: {_IOU})",
    )
    scores = parser.add_mutually_exclusive_group()
    scores.add_argument(
        "--calibration", action="append", metavar="FILE",
        help="threshold file of `labeler calibrate`, per run in order (default: thresholds.yaml in each run)",
    )  # fmt: skip
    scores.add_argument(
        "--raw-scores", action="store_true", help="compare scores of different runs without calibration"
    )
    add_log_format(parser)
    parser.set_defaults(run=_fuse)


def _fuse(arguments: argparse.Namespace) -> int:
    from labeler.labels.fusion import BoxFusion
    from labeler.pipeline.fuse import fuse, lines_of, resolve_fusion

    if not 0 < arguments.iou < 1:
        raise Refused(f"--iou is a number between 0 and 1, got {arguments.iou}")
    runs = [require_run(uri) for uri in arguments.run_uris]
    output = storage.absolute_uri(arguments.output or f"{runs[0].uri.rstrip('/')}-fused")
    calibrations = None if arguments.raw_scores else arguments.calibration or ()
    job = resolve_fusion(runs, BoxFusion(arguments.method, arguments.iou), output, calibrations=calibrations)
    outcome, alone = fuse(job)
    print_result([*job.lines, *alone, *lines_of(outcome), *describe(outcome)])
    return 0

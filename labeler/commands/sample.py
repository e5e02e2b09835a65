"""`labeler sample`: which boxes of a run to review next, drawn by a design that an estimate can be made from."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands.arguments import Verbs, require_replaceable, require_snapshot, written
from labeler.commands.export_options import SUPPRESS_IOU, read_suppress
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.exports.sampled import Sample
    from labeler.exports.selection import Selection
    from labeler.review.sampling.disagreement import Other
    from labeler.review.sampling.draw import Pilot
    from labeler.runs import Run

_STRATEGIES = ("estimate", "margin", "disagree", "rare", "suspicious", "random", "mixed")
_THRESHOLD = 0.3
_BAND = 0.1
_PURPOSES = ("review",)


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("sample", help="choose boxes to review next: for an estimate, or where errors are likely")
    parser.add_argument("run_uri", metavar="RUN", help="run folder")
    parser.add_argument(
        "--for", dest="purpose", choices=_PURPOSES, default="review", help="purpose of the sample (default: review)"
    )
    parser.add_argument("--n", type=int, default=300, metavar="BOXES", help="number of boxes to draw (default: 300)")
    review = parser.add_argument_group("for review")
    review.add_argument(
        "--strategy", choices=_STRATEGIES, default="mixed", help="how to choose boxes for review (default: mixed)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the draw (default: 0)")
    boxes = parser.add_argument_group("which boxes")
    boxes.add_argument(
        "--threshold", type=float, metavar="SCORE", help=f"draw boxes with at least this score (default: {_THRESHOLD})"
    )
    boxes.add_argument("--thresholds", metavar="FILE", help="YAML file with a threshold per category")
    boxes.add_argument(
        "--suppress",
        metavar="IOU",
        help=f"class-agnostic NMS, as of `labeler export`; or off (default: {SUPPRESS_IOU})",
    )
    review.add_argument(
        "--band", type=float, metavar="S", help=f"margin: draw scores up to this above the threshold (default: {_BAND})"
    )
    review.add_argument("--against", metavar="RUN_B", help="disagree: run over the same images")
    review.add_argument(
        "--thresholds-against", metavar="FILE", help="disagree: YAML file with a threshold per category, for RUN_B"
    )
    estimate = parser.add_argument_group("for an estimate")
    estimate.add_argument(
        "--pilot",
        action="append",
        metavar="MARKS",
        help="estimate: draw more where these marks (JSON, or a corrected run) vary most; repeatable",
    )
    estimate.add_argument(
        "--continue", dest="before", metavar="SAMPLE", help="estimate: enlarge this sample to --n boxes by its --pilot"
    )
    boxes.add_argument("--partial", action="store_true", help="accept an incomplete run")
    written = parser.add_argument_group("output")
    written.add_argument("--output", metavar="FILE", help="JSON to write (default: RUN/sample.json)")
    written.add_argument("--force", action="store_true", help="replace any file")
    parser.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> int:
    from labeler.exports.sampled import read_sample
    from labeler.review.sampling.draw import Request, draw_sample
    from labeler.runs import layout
    from labeler.runs.erasure.made import note_made

    _require_own_options(arguments)
    snapshot = require_snapshot(arguments, "sample")
    run = snapshot.run
    output = arguments.output or run.path(layout.SAMPLE)
    before = None if arguments.before is None else read_sample(arguments.before, run)
    request = Request(
        strategy=arguments.strategy,
        selection=_selection(arguments, run, before),
        boxes=arguments.n,
        seed=(arguments.seed or 0) if before is None else before.seed,
        band=_BAND if arguments.band is None else arguments.band,
        other=_other(arguments),
        pilot=_pilot(arguments, run, before),
    )
    sample = draw_sample(snapshot, request)
    data = sample.to_json()
    replaced = _replaced(output, data, force=arguments.force)
    note_made(run, storage.absolute_uri(output))
    storage.put(output, data)
    print("\n".join([*_lines(sample, arguments.n), written(output, replaced)]))
    return 0


def _require_own_options(arguments: argparse.Namespace) -> None:
    """Raise Refused for options that the strategy does not have."""
    strategy = arguments.strategy
    if arguments.n < 1:
        raise Refused(f"--n is a number of boxes, 1 or more; got {arguments.n}")
    if arguments.seed is not None and arguments.seed < 0:
        raise Refused(f"--seed is 0 or more, got {arguments.seed}")
    if (arguments.against is None) == (strategy == "disagree"):
        raise Refused("--strategy disagree and --against RUN_B go together: the boxes on which two runs differ")
    if arguments.thresholds_against is not None and strategy != "disagree":
        raise Refused("--thresholds-against is for --strategy disagree")
    if arguments.band is not None and (strategy not in ("margin", "mixed") or not 0 < arguments.band <= 1):
        raise Refused("--band is a difference of scores above 0 and up to 1, for --strategy margin or mixed")
    if arguments.pilot and strategy not in ("estimate", "mixed"):
        raise Refused("--pilot allocates the boxes of --strategy estimate or mixed")
    if arguments.before is not None:
        if strategy != "estimate" or not arguments.pilot:
            raise Refused("--continue SAMPLE is for --strategy estimate, with the marks of its boxes as --pilot")
        given = ("threshold", "thresholds", "suppress", "seed")
        if named := [f"--{name}" for name in given if getattr(arguments, name) is not None]:
            raise Refused(f"--continue takes {' and '.join(named)} from the sample: leave that out")


def _selection(arguments: argparse.Namespace, run: Run, before: Sample | None) -> Selection:
    from labeler.exports.sampled import SMALLEST_SIDE
    from labeler.exports.selection import Selection
    from labeler.runs.fitted_on import thresholds_for

    if before is not None:
        thresholds, suppress = before.population.to_thresholds(), before.population.suppress
    else:
        thresholds = thresholds_for(run, arguments.thresholds, default=_threshold(arguments))
        suppress = read_suppress(arguments.suppress or str(SUPPRESS_IOU))
    return Selection(thresholds=thresholds, suppress_iou=suppress, min_side=SMALLEST_SIDE)


def _threshold(arguments: argparse.Namespace) -> float:
    threshold: float = _THRESHOLD if arguments.threshold is None else arguments.threshold
    if not 0 <= threshold <= 1:
        raise Refused(f"--threshold is a score from 0 to 1, got {threshold}")
    return threshold


def _other(arguments: argparse.Namespace) -> Other | None:
    from labeler.review.sampling.disagreement import Other
    from labeler.runs import read_snapshot, require_run
    from labeler.runs.fitted_on import thresholds_for

    if arguments.against is None:
        return None
    run = require_run(arguments.against)
    snapshot = read_snapshot(run)
    if not arguments.partial:
        snapshot.require_complete("sample against what there is with --partial")
    thresholds = thresholds_for(run, arguments.thresholds_against, default=_threshold(arguments))
    return Other(snapshot, thresholds, read_suppress(arguments.suppress or str(SUPPRESS_IOU)))


def _pilot(arguments: argparse.Namespace, run: Run, before: Sample | None) -> Pilot | None:
    from labeler.calibration.reviews import read_judgments
    from labeler.review.sampling.judged import pilot_of

    if not arguments.pilot:
        return None
    if before is not None and arguments.n < sum(1 for _ in before.boxes):
        raise Refused("--n counts all boxes, those of the sample to continue among them: give more than it has")
    return pilot_of(run.manifest.run_id, [read_judgments(uri, run) for uri in arguments.pilot], before)


def _replaced(output: str, data: bytes, *, force: bool) -> str | None:
    """Return what is replaced. Raises Refused for another sample: an estimate from marks of it needs the file."""
    from labeler.exports.sampled import describe_sample

    def describe(found: bytes) -> str | None:
        return describe_sample(found) if found == data else None

    return require_replaceable(output, describe, "this very sample (marks of a sample need its file)", force=force)


def _lines(sample: Sample, asked: int) -> list[str]:
    boxes, population = [box for _, box in sample.boxes], sample.population
    designs = Counter(box.design for box in boxes)
    by_design = ", ".join(f"{name} {count:,}" for name, count in sorted(designs.items()))
    lines = [
        f"run         {population.boxes:,} boxes at or above their thresholds in {population.images:,} images",
        f"sample      {len(boxes):,} boxes in {len(sample.images):,} images: {by_design}",
    ]
    if len(boxes) < asked:
        lines.append(f"            {asked - len(boxes):,} fewer than asked for: there are no more of this kind")
    if pilot := sum(box.pilot for box in boxes):
        lines.append(f"            {pilot:,} of them are the pilot's, which export does not hand out again")
    for stratum in sample.strata if len(sample.strata) > 1 else ():
        lines.append(f"score from  {stratum.lowest_score:.3f}: {stratum.drawn:,} of {stratum.boxes:,} boxes")
    if not sample.strata:
        lines.append("chosen      by their kind or score: no precision can be estimated from these boxes")
    return lines

"""`labeler evaluate`: how good labels are, against ground truth."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs, require_replaceable, require_run, written
from labeler.commands.export_options import SUPPRESS_IOU, read_suppress
from labeler.commands.score_options import add_score, read_score
from labeler.errors import Refused

_OF_TRUTH = {
    "annotations": None,
    "groups": None,
    "rules": "auto",
    "iou": "auto",
    "thresholds": None,
    "suppress": None,
    "fixed_ap": False,
    "categories_by_name": False,
    "partial": False,
}  # options that are about ground truth, and their defaults


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("evaluate", help="COCO and LVIS AP, precision, recall and F1 against ground truth")
    parser.add_argument("run_uri", metavar="RUN", help="run folder, or a COCO results list (.json)")
    truth = parser.add_argument_group("ground truth")
    truth.add_argument("--annotations", metavar="URI", help="ground truth: COCO or LVIS JSON, or a corrected run")
    sampled = parser.add_argument_group("instead of ground truth")
    sampled.add_argument(
        "--sample",
        metavar="FILE",
        help="estimate the precision from a sample by `labeler sample` and its --marks instead",
    )
    sampled.add_argument(
        "--marks",
        action="append",
        metavar="URI",
        help="boxes of the sample that were marked right or wrong (JSON), or the corrected run; repeatable",
    )
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--groups", metavar="FILE", help="YAML file with `name: [category, ...]`: print the AP of each group"
    )
    measures.add_argument(
        "--rules",
        choices=["auto", "coco", "lvis"],
        default="auto",
        help="rules of the AP (default: auto, by the annotations)",
    )
    measures.add_argument(
        "--iou",
        choices=["auto", "bbox", "segm"],
        default="auto",
        help="compare boxes, or masks as well (default: auto, masks if there are any)",
    )
    boxes = parser.add_argument_group("which boxes")
    boxes.add_argument(
        "--thresholds", metavar="FILE", help="evaluate only boxes that an export with this file would keep"
    )
    add_score(boxes)
    boxes.add_argument(
        "--suppress",
        metavar="IOU",
        help=f"with --thresholds: class-agnostic NMS before precision and recall; or off (default: {SUPPRESS_IOU})",
    )
    measures.add_argument("--fixed-ap", action="store_true", help="refuse a run that is unfit for LVIS's Fixed AP")
    truth.add_argument(
        "--categories-by-name", action="store_true", help="match categories by name and ignore their IDs"
    )
    truth.add_argument(
        "--partial", action="store_true", help="accept an incomplete run; ignore images and categories it lacks"
    )
    truth.add_argument(
        "--not-asked",
        choices=["left-out", "missed"],
        default="left-out",
        help="objects whose image was not asked for their name by prompts.from (default: left-out)",
    )
    written = parser.add_argument_group("output")
    written.add_argument("--output", metavar="URI", help="JSON to write (default: RUN/evaluation.json)")
    written.add_argument("--force", action="store_true", help="replace a file that is not an evaluation")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from labeler.evaluation.evaluate import evaluate_run
    from labeler.evaluation.results import evaluate_results
    from labeler.runs import layout

    if arguments.sample is not None or arguments.marks:
        return _evaluate_sample(arguments)
    if arguments.annotations is None:
        raise Refused("evaluate needs --annotations, or --sample and --marks")
    groups, rules = arguments.groups, arguments.rules
    if arguments.suppress is not None and not arguments.thresholds:
        raise Refused("--suppress goes with --thresholds: AP is of all boxes")
    if arguments.run_uri.lower().endswith(".json"):
        of_runs = arguments.partial or arguments.categories_by_name or arguments.fixed_ap or arguments.thresholds
        others = arguments.score != "score" or arguments.fusion or arguments.not_asked != "left-out"
        if of_runs or arguments.iou != "auto" or others:
            options = "--partial, --categories-by-name, --fixed-ap, --thresholds, --score, --fusion, --not-asked, --iou"
            raise Refused(f"{options} are for runs, not for a results file")
        target = arguments.output
        replaced = _replaced(target, force=arguments.force)
        evaluation = evaluate_results(arguments.run_uri, arguments.annotations, groups=groups, rules=rules)
    else:
        run_uri = storage.absolute_uri(arguments.run_uri)
        target = arguments.output or storage.join(run_uri, layout.EVALUATION)
        replaced = _replaced(target, force=arguments.force)
        evaluation = evaluate_run(
            run_uri,
            arguments.annotations,
            groups=groups,
            rules=rules,
            fixed_ap=arguments.fixed_ap,
            by_name=arguments.categories_by_name,
            partial=arguments.partial,
            masks={"auto": None, "bbox": False, "segm": True}[arguments.iou],
            thresholds=arguments.thresholds,
            suppress_iou=read_suppress(arguments.suppress or str(SUPPRESS_IOU)),
            score=read_score(arguments, require_run(run_uri)),
            not_asked_missed=arguments.not_asked == "missed",
        )
    lines = evaluation.lines()
    if target:
        storage.put(target, evaluation.to_json())  # first: the reader of the output may go away (`| head`)
        lines += ["", written(target, replaced)]
    print("\n".join(lines))
    return 0


def _evaluate_sample(arguments: argparse.Namespace) -> int:
    """Print the precision that marks of a sample show; write it only where --output says."""
    from labeler.calibration.reviews import read_judgments
    from labeler.exports.sampled import read_sample
    from labeler.review.sampling.judged import describe_estimate, estimate_sample
    from labeler.runs import require_run

    if arguments.sample is None or not arguments.marks:
        raise Refused("--sample and --marks go together: the boxes that were drawn, and what people said of them")
    if given := [f"--{name.replace('_', '-')}" for name, default in _OF_TRUTH.items() if _is(arguments, name, default)]:
        raise Refused(f"{given[0]} is for ground truth, not for a sample: leave it out")
    run, target = require_run(arguments.run_uri), arguments.output
    found = estimate_sample(read_sample(arguments.sample, run), [read_judgments(uri, run) for uri in arguments.marks])
    lines = found.lines(run.vocabulary())
    if target:
        what = "a precision by `labeler evaluate --sample`"
        replaced = require_replaceable(target, describe_estimate, what, force=arguments.force)
        storage.put(target, found.to_json())
        lines += ["", written(target, replaced)]
    print("\n".join(lines))
    return 0


def _is(arguments: argparse.Namespace, name: str, default: object) -> bool:
    """Return whether an option was given another value than its default."""
    return bool(getattr(arguments, name) != default)


def _replaced(target: str | None, *, force: bool) -> str | None:
    """Return what an evaluation written to `target` replaces. Raises Refused if that is something else."""
    from labeler.evaluation.evaluation import describe_written

    if not target:
        return None
    return require_replaceable(target, describe_written, "an evaluation by `labeler evaluate`", force=force)

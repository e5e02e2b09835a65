"""The command line: one verb a command; exit codes 0 complete, 1 incomplete, 2 refused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from labeler import __version__, storage
from labeler.errors import LabelerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Errors meant for the user are printed in a line each."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except LabelerError as error:
        print(f"labeler: {error}", file=sys.stderr)
        for problem in getattr(error, "problems", ()):
            print(f"  {problem}", file=sys.stderr)
        return error.exit_code if _before_start(arguments, error) is None else 2
    except BrokenPipeError:  # the reader of our output went away (`| head`): no error of ours
        sys.stderr.close()
        return 0
    return code


def _before_start(arguments: argparse.Namespace, error: LabelerError) -> int | None:
    """Storage errors of the reading verbs are refusals: they started nothing that could be incomplete."""
    is_storage = type(error).__name__ in ("StorageError", "InputChanged")
    return 2 if is_storage and arguments.verb != "label" else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="labeler", description="Distributed batch labeling with an open-vocabulary detector."
    )
    parser.add_argument("--version", action="version", version=f"labeler {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_label(verbs)
    _add_preview(verbs)
    _add_status(verbs)
    _add_export(verbs)
    _add_vocabulary(verbs)
    return parser


Verbs = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file: input, output, vocabulary, model, ...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override, e.g. detect.score_floor=0.1")


def _add_label(verbs: Verbs) -> None:
    parser = verbs.add_parser("label", help="label every image of the input, or go on where a run stopped")
    _add_config(parser)
    parser.add_argument("--extend", action="store_true", help="list the input again and add new shards to the plan")
    parser.add_argument("--dry-run", action="store_true", help="say what a run would take; write nothing")
    parser.add_argument("--time-images", type=int, default=4, metavar="N", help="dry run: images to time here (0: none)")
    parser.add_argument("--price-per-hour", type=float, metavar="PRICE", help="dry run: price of one worker's hour")
    parser.set_defaults(run=_label)


def _label(arguments: argparse.Namespace) -> int:
    from labeler.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.dry_run:
        return _dry_run(arguments)
    from labeler.pipeline.label import label

    outcome = label(config, extend=arguments.extend)
    report = outcome.report
    statuses = ", ".join(f"{status} {count:,}" for status, count in report.statuses.items())
    print(f"complete: {report.images:,} images in {report.shards:,} shards: {statuses}")
    print(f"{report.detections:,} detections in {storage.redact(outcome.run.uri)}")
    if report.images_at_cap:
        print(f"{report.images_at_cap:,} images reached detect.max_detections")
    return 0


def _dry_run(arguments: argparse.Namespace) -> int:
    from labeler.config import load_config
    from labeler.estimate import describe_estimate, describe_plan, time_sample
    from labeler.job import plan_input, resolve_job

    config = load_config(arguments.config, arguments.overrides)
    job = resolve_job(config)
    plan = plan_input(config)
    for line in describe_plan(job, plan):
        print(line)
    if arguments.time_images > 0:
        timing = time_sample(job, plan, images=arguments.time_images)
        workers = config.ray.workers or 1
        for line in describe_estimate(config, plan, timing, workers=workers, price_per_hour=arguments.price_per_hour):
            print(line)
    return 0


def _add_preview(verbs: Verbs) -> None:
    parser = verbs.add_parser("preview", help="label a sample here and draw it on a contact sheet")
    _add_config(parser)
    parser.add_argument("--images", type=int, default=50, metavar="N", help="how many images (default 50)")
    parser.add_argument("--threshold", type=float, default=0.3, help="draw boxes with at least this score")
    parser.add_argument("--png", default="preview.png", metavar="FILE", help="where to write (default preview.png)")
    parser.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    from labeler.config import load_config
    from labeler.job import resolve_job
    from labeler.preview import preview

    job = resolve_job(load_config(arguments.config, arguments.overrides))
    result = preview(job, sample=arguments.images, threshold=arguments.threshold)
    storage.put(arguments.png, result.png)
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(result.statuses.items()))
    print(f"{arguments.png}: {sum(result.statuses.values())} images ({statuses}), {result.detections} boxes drawn")
    return 0


def _add_status(verbs: Verbs) -> None:
    parser = verbs.add_parser("status", help="what a run has done: exit 0 complete, 1 incomplete, 2 not a run")
    parser.add_argument("run_uri", metavar="RUN", help="the run folder (output of the config)")
    parser.add_argument("--verify", action="store_true", help="read every row: rebuild report.json and prove the counts")
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    from labeler.report import build_report
    from labeler.runs import layout, read_plan, read_progress
    from labeler.runs.manifest import readable_json

    run = _open(arguments.run_uri)
    plan, progress = read_plan(run), read_progress(run)
    finished = len(plan) - len(progress.left(plan))
    images, exact = progress.images_known(plan)
    print(f"run      {run.manifest.run_id}, created {run.manifest.created}")
    print(f"shards   {finished:,} of {len(plan):,} finished, {progress.committed_units:,} units committed")
    print(f"images   {'' if exact else '≥ '}{images:,} planned")
    complete = finished == len(plan)
    if arguments.verify:
        report = build_report(run, plan, progress)
        storage.put(run.path(layout.REPORT), readable_json(report.to_dict()))
        print(f"rows     {report.images:,}: {', '.join(f'{s} {n:,}' for s, n in report.statuses.items()) or 'none'}")
        for problem in report.problems:
            print(f"problem  {problem}")
        complete = report.complete
    print("complete" if complete else "incomplete: run the same label command again")
    return 0 if complete else 1


def _open(uri: str) -> "Run":  # noqa: UP037, F821
    from labeler.errors import Refused
    from labeler.job import absolute_uri
    from labeler.runs import open_run

    run = open_run(absolute_uri(uri))
    if run is None:
        raise Refused(f"{storage.redact(uri)} is no run: it has no run.json; give the output folder of a label command")
    return run


def _add_export(verbs: Verbs) -> None:
    parser = verbs.add_parser("export", help="write a run's labels for trainers, without a GPU")
    parser.add_argument("run_uri", metavar="RUN", help="the run folder")
    parser.add_argument("--to", choices=["coco"], required=True, help="the format")
    parser.add_argument("--output", metavar="URI", help="file to write (default RUN/exports/coco.json)")
    parser.add_argument("--threshold", type=float, default=0.0, help="keep detections with at least this score")
    parser.add_argument("--thresholds", metavar="FILE", help="YAML with a threshold per category")
    parser.add_argument("--suppress", type=float, metavar="IOU", help="of boxes overlapping more, keep the best of any category")
    parser.add_argument("--partial", action="store_true", help="export an incomplete run as far as it is")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from labeler.errors import Refused
    from labeler.exports.coco import export_coco
    from labeler.exports.thresholds import Thresholds, read_thresholds
    from labeler.runs import read_plan, read_progress

    run = _open(arguments.run_uri)
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
        thresholds = read_thresholds(arguments.thresholds, run.vocabulary(), default=arguments.threshold)
    target = arguments.output or run.path("exports/coco.json")
    summary = export_coco(run, plan, progress, target, thresholds=thresholds, suppress_iou=arguments.suppress)
    print(f"{storage.redact(target)}: {summary.images:,} images, {summary.annotations:,} annotations")
    if summary.left_out:
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(summary.left_out.items()))
        print(f"left out, because they could not be labeled: {reasons}")
    return 0


def _add_vocabulary(verbs: Verbs) -> None:
    parser = verbs.add_parser("vocabulary", help="list, show and check vocabularies")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the built-in vocabularies")
    listing.set_defaults(run=_vocabulary_list)
    for name, text, run in (
        ("show", "a vocabulary's categories", _vocabulary_show),
        ("check", "every problem of a vocabulary at once, and its prompt chunks", _vocabulary_check),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("vocabulary", metavar="VOCABULARY", help="a built-in name, or a file")
        action.add_argument("--synonyms", action="store_true", help="use the synonyms of each category too")
        if name == "check":
            action.add_argument("--model", metavar="MODEL", help="checkpoint whose tokenizer decides")
            action.add_argument("--revision", help="its revision on the hub")
            action.add_argument("--max-tokens", type=int, default=256, help="tokens per chunk (default 256)")
        action.set_defaults(run=run)


def _vocabulary_list(arguments: argparse.Namespace) -> int:
    from labeler.vocabulary_text import list_built_in

    print("\n".join(list_built_in()))
    return 0


def _vocabulary_show(arguments: argparse.Namespace) -> int:
    from labeler.vocabulary import Vocabulary
    from labeler.vocabulary_text import show_categories

    print("\n".join(show_categories(Vocabulary.load(arguments.vocabulary, synonyms=arguments.synonyms))))
    return 0


def _vocabulary_check(arguments: argparse.Namespace) -> int:
    from labeler.checkpoints import resolve
    from labeler.vocabulary_text import describe
    from labeler.tokenizer import Tokenizer
    from labeler.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(arguments.vocabulary, synonyms=arguments.synonyms)
    tokenizer = None
    if arguments.model:
        folder = resolve(arguments.model, revision=arguments.revision, weights=False).folder
        tokenizer = Tokenizer.load(folder)
    print("\n".join(describe(vocabulary, tokenizer, max_tokens=arguments.max_tokens)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

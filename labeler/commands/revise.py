"""`labeler revise`: a run with another vocabulary, as a derived run that runs only what is new."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands.arguments import CHECKING_RUN, Verbs, add_log_format, print_result, require_run, starting
from labeler.commands.label import describe

if TYPE_CHECKING:
    from labeler.labeling.revision import RevisionJob
    from labeler.pipeline.session import Outcome
    from labeler.runs import Run


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "revise", help="give a run another vocabulary in a derived run; only new prompt chunks are run"
    )
    parser.add_argument("run_uri", metavar="RUN", help="complete run")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of the run's configuration, e.g. ray.max_workers=4"
    )
    parser.add_argument("--vocabulary", required=True, metavar="NEW", help="new vocabulary: file, URI or built-in name")
    parser.add_argument("--output", metavar="URI", help="folder of the derived run (default: RUN-revised)")
    parser.add_argument("--dry-run", action="store_true", help="print the forward passes of both ways; write nothing")
    add_log_format(parser)
    parser.set_defaults(run=_revise)


def _revise(arguments: argparse.Namespace) -> int:
    with starting() as startup:
        from labeler.labeling.revision import resolve_revision, revised_config
        from labeler.pipeline.revise import revise

        startup.step(CHECKING_RUN)
        run = require_run(arguments.run_uri)
        output = storage.absolute_uri(arguments.output or f"{run.uri.rstrip('/')}-revised")
        revision = resolve_revision(run, revised_config(run, arguments.vocabulary, output, arguments.overrides))
        if arguments.dry_run:
            print_result(_dry_run(run, revision))
            return 0
        outcome = revise(run, revision, startup=startup)
    print_result([*revision.lines(), *_named(outcome), *describe(outcome)])
    return 0


def _dry_run(run: Run, revision: RevisionJob) -> list[str]:
    from labeler.runs import read_snapshot
    from labeler.runs.report import build_report

    snapshot = read_snapshot(run)
    snapshot.require_complete("wait until it is")
    report = build_report(snapshot)
    images = sum(report.statuses.get(status, 0) for status in ("labeled", "empty"))
    new, whole = len(revision.revision.new_passes) * images, revision.anew.passes * images
    tiled = ", times the views of an image" if revision.job.config.detect.tiling else ""
    lines = [*revision.lines(), f"images      {images:,}: {new:,} passes, {whole:,} with a run of its own{tiled}"]
    if report.images_at_cap:
        lines.append(
            f"at the cap  {report.images_at_cap:,} images have max_detections boxes; those of them that lose boxes "
            "with a name may lack the boxes that were cut, and are counted and named at the end"
        )
    return lines


def _named(outcome: Outcome) -> list[str]:
    """Return how many images may lack detections, and how to list them; nothing where none does."""
    from labeler.labels.revised import CUT

    count = outcome.report.errors.get(CUT, 0)
    if not count:
        return []
    uri = storage.redact(outcome.run.uri)
    return [
        f"incomplete  {count:,} images: {CUT}; `error` of their rows has this text: "
        f"labeler export {uri} --to coco --where \"error = '{CUT}'\""
    ]

"""`labeler retry`: relabel the images that a run could not label, as a derived run."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import CHECKING_RUN, Verbs, add_log_format, print_result, require_run, starting
from labeler.commands.label import describe


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("retry", help="relabel failed images of a run in a derived run that overlays it")
    parser.add_argument("run_uri", metavar="RUN", help="complete run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override of the run's configuration, e.g. detect.max_pixels=1000000000",
    )
    parser.add_argument(
        "--status", required=True, metavar="A,B", help="statuses of the images to relabel, e.g. quarantined,read_error"
    )
    parser.add_argument("--output", metavar="URI", help="folder of the derived run (default: RUN-retry)")
    add_log_format(parser)
    parser.set_defaults(run=_retry)


def _retry(arguments: argparse.Namespace) -> int:
    statuses = [status.strip() for status in arguments.status.split(",") if status.strip()]
    with starting() as startup:
        from labeler.pipeline.derive import retry

        startup.step(CHECKING_RUN)
        run = require_run(arguments.run_uri)
        output = storage.absolute_uri(arguments.output or f"{run.uri.rstrip('/')}-retry")
        outcome = retry(run, statuses, output, overrides=arguments.overrides, startup=startup)
    nothing = f"no image of {storage.redact(run.uri)} has status {' or '.join(statuses)}: nothing to do"
    print_result(describe(outcome) if outcome else [nothing])
    return 0

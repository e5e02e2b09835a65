"""`labeler mask`: masks for the boxes of a run, as a derived run."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import CHECKING_RUN, Verbs, add_log_format, print_result, require_run, starting
from labeler.commands.label import describe


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "mask", help="add masks to a run's boxes (SAM, SAM-HQ, SAM 2, SAM 3) in a derived run that overlays it"
    )
    parser.add_argument("run_uri", metavar="RUN", help="complete run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override of the run's configuration: masks.model=..., masks.threshold=0.4",
    )
    parser.add_argument("--output", metavar="URI", help="folder of the derived run (default: RUN-masks)")
    add_log_format(parser)
    parser.set_defaults(run=_mask)


def _mask(arguments: argparse.Namespace) -> int:
    with starting() as startup:
        from labeler.pipeline.derive import mask

        startup.step(CHECKING_RUN)
        run = require_run(arguments.run_uri)
        output = storage.absolute_uri(arguments.output or f"{run.uri.rstrip('/')}-masks")
        outcome = mask(run, output, overrides=arguments.overrides, startup=startup)
    nothing = f"no image of {storage.redact(run.uri)} has a box: nothing to do"
    print_result(describe(outcome) if outcome else [nothing])
    return 0

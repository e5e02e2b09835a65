"""`labeler rescore`: a second score for the boxes of a run, as a derived run."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import CHECKING_RUN, Verbs, add_log_format, print_result, require_run, starting
from labeler.commands.label import describe


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "rescore", help="give a run's boxes a second score (CLIP, SigLIP, SigLIP 2) in a derived run that overlays it"
    )
    parser.add_argument("run_uri", metavar="RUN", help="complete run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="override of the run's configuration: rescore.model=..., rescore.margin=0.2",
    )
    parser.add_argument("--output", metavar="URI", help="folder of the derived run (default: RUN-rescored)")
    add_log_format(parser)
    parser.set_defaults(run=_rescore)


def _rescore(arguments: argparse.Namespace) -> int:
    with starting() as startup:
        from labeler.pipeline.derive import rescore

        startup.step(CHECKING_RUN)
        run = require_run(arguments.run_uri)
        output = storage.absolute_uri(arguments.output or f"{run.uri.rstrip('/')}-rescored")
        outcome = rescore(run, output, overrides=arguments.overrides, startup=startup)
    nothing = f"no image of {storage.redact(run.uri)} has a box: nothing to do"
    print_result(describe(outcome) if outcome else [nothing])
    return 0

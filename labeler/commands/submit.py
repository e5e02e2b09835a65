"""`labeler submit`: the main job on a cluster, sent to its job server and followed until it is complete."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from labeler.commands.arguments import Verbs, add_config
from labeler.commands.label import add_run_options
from labeler.errors import Refused

_ATTEMPTS = 3


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("submit", help="`label` as a job of a Ray cluster, submitted again until it is complete")
    add_config(parser)
    add_run_options(parser)
    server = parser.add_argument_group("job server")
    server.add_argument(
        "--address",
        metavar="URL",
        help="job server of the cluster, e.g. http://HEAD:8265 (default: that of `ray job submit`)",
    )
    server.add_argument(
        "--working-dir",
        default=".",
        metavar="FOLDER",
        help="folder to send to the cluster; .rayignore excludes files (default: .)",
    )
    server.add_argument(
        "--attempts",
        type=int,
        metavar="N",
        help=f"most jobs until the run is complete (default: {_ATTEMPTS}, or 1 with --max-cost or --stop-after-hours)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--no-wait", action="store_true", help="submit one job and do not follow it")
    instead.add_argument("--stop", action="store_true", help="stop the job that works on the run of CONFIG")
    parser.set_defaults(run=_submit)


def _submit(arguments: argparse.Namespace) -> int:
    from labeler.config import load_config
    from labeler.pipeline.budget import Budget
    from labeler.submission.server import JobServer, choose_address
    from labeler.submission.submit import prepare, stop_run, submit_run
    from labeler.terminal import message_console

    if arguments.attempts is not None and arguments.attempts < 1:
        raise Refused(f"--attempts {arguments.attempts}: at least one job is needed")
    config, console = load_config(arguments.config, arguments.overrides), message_console()
    address, setting = choose_address(arguments.address, os.environ)
    if arguments.stop:
        return stop_run(JobServer(address, setting), config.output.uri, console)
    Budget.of(arguments.stop_after_hours, arguments.max_cost, arguments.price_per_hour)
    _ = config.model_name
    words = [*arguments.overrides, *_options_of_label(arguments)]
    submission = prepare(config, Path(arguments.config), Path(arguments.working_dir), words)
    return submit_run(
        JobServer(address, setting),
        submission,
        console,
        _write,
        attempts=_attempts(arguments),
        wait=not arguments.no_wait,
    )


def _attempts(arguments: argparse.Namespace) -> int:
    """Return how many jobs; a limit ends a job incomplete, and another would spend as much again."""
    limited = arguments.max_cost is not None or arguments.stop_after_hours is not None
    usual: int = arguments.attempts or (1 if limited else _ATTEMPTS)
    return 1 if arguments.no_wait else usual


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _options_of_label(arguments: argparse.Namespace) -> list[str]:
    """The options of `label` that were given, as words of its command line."""
    known = argparse.ArgumentParser(add_help=False)
    add_run_options(known)
    words = []
    for action in known._actions:
        value = getattr(arguments, action.dest)
        if value != action.default:
            words += [action.option_strings[0], *([] if action.nargs == 0 else [str(value)])]
    return words

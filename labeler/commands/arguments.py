"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from labeler.runs import Run, Snapshot

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file: input, output, vocabulary, model, ...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override, e.g. detect.score_floor=0.1")


def require_run(uri: str) -> Run:
    """The run in a folder; Refused when there is none."""
    from labeler import runs

    return runs.require_run(uri)


def require_snapshot(arguments: argparse.Namespace, verb: str) -> Snapshot:
    """The run in the folder RUN as it is now; Refused when there is none, or an incomplete one without --partial."""
    from labeler.runs import read_snapshot

    snapshot = read_snapshot(require_run(arguments.run_uri))
    if not arguments.partial:
        snapshot.require_complete(f"{verb} what there is with --partial")
    return snapshot

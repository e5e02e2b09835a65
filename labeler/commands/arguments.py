"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

from labeler import storage
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.runs import Run

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file: input, output, vocabulary, model, ...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override, e.g. detect.score_floor=0.1")


def require_run(uri: str) -> Run:
    """The run in a folder; Refused when there is none."""
    from labeler.runs import open_run

    run = open_run(storage.absolute_uri(uri))
    if run is None:
        raise Refused(f"{storage.redact(uri)} is no run: it has no run.json; give the output folder of a label command")
    return run

"""`labeler models`: families and usual checkpoints, what they cost, and what has been published about them."""

from __future__ import annotations

import argparse

from labeler.commands.arguments import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("models", help="detector families and usual checkpoints: licence, cost, published AP")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=_models)


def _models(arguments: argparse.Namespace) -> int:
    from labeler.catalog.listing import lines, listed
    from labeler.digests import readable_json

    shown = listed()
    if arguments.json:
        print(readable_json([one.to_dict() for one in shown]).decode(), end="")
    else:
        print("\n".join(lines(shown)))
    return 0

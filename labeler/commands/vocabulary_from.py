"""`labeler vocabulary from`: what the captions or tags of an input name, as a vocabulary."""

from __future__ import annotations

import argparse
from typing import Any

from labeler import storage
from labeler.errors import Refused


def add(actions: argparse._SubParsersAction[Any]) -> None:
    """Add the action to those of `labeler vocabulary`."""
    parser = actions.add_parser("from", help="count what the captions or tags of an input name")
    parser.add_argument("input_uri", metavar="INPUT", help="folder, glob or file, as input.uri of a configuration")
    parser.add_argument(
        "--field", required=True, metavar="NAME", help="sidecar (txt, json.tags) or column with the text"
    )
    parser.add_argument(
        "--vocabulary", metavar="NAME", help="vocabulary whose categories are counted, and what is not in it"
    )
    parser.add_argument(
        "--least", type=int, default=1, metavar="N", help="print only phrases of at least N images (default: 1)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="read only the first N images")
    parser.add_argument("--image-column", metavar="NAME", help="column of Parquet files that holds the images")
    parser.add_argument("--output", metavar="FILE", help="vocabulary to write (.txt)")
    parser.set_defaults(run=_from)


def _from(arguments: argparse.Namespace) -> int:
    from labeler.trial.captions import as_vocabulary, describe_captions, items_of, read_captions
    from labeler.vocabulary import Vocabulary

    target, field, limit = arguments.output, arguments.field, arguments.limit
    if arguments.least < 1 or (limit is not None and limit < 1):
        raise Refused("--least and --limit are 1 or more")
    if target is not None and not target.endswith(".txt"):
        raise Refused(f"--output is the name of a .txt file, got {storage.redact(target)}")
    if target is not None and storage.head(storage.absolute_uri(target)) is not None:
        raise Refused(f"--output {storage.redact(target)} is there already; remove it, or name another file")
    vocabulary = Vocabulary.load(arguments.vocabulary) if arguments.vocabulary else None
    items = items_of(storage.absolute_uri(arguments.input_uri), field, limit=limit, image_column=arguments.image_column)
    counts = read_captions(items, field, vocabulary)
    lines = describe_captions(counts, field, vocabulary, least=arguments.least)
    if target is not None:
        storage.put(storage.absolute_uri(target), as_vocabulary(counts, arguments.least).encode())
        lines.append(f"written: {storage.redact(target)}; edit it, then: labeler vocabulary check {target}")
    print("\n".join(lines))
    return 0

"""`labeler compare`: what differs between two runs over the same images."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from labeler import signature, storage
from labeler.commands.arguments import Verbs, require_replaceable, require_replaceable_page, require_run

if TYPE_CHECKING:
    from labeler.review.comparison import ChangeCounts, Comparison
    from labeler.vocabulary import Vocabulary

_LINES = 15


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("compare", help="two runs box by box: the same, moved, renamed, lost, added")
    parser.add_argument("first_uri", metavar="RUN_A", help="run folder")
    parser.add_argument("second_uri", metavar="RUN_B", help="run folder over the same images")
    boxes = parser.add_argument_group("which boxes")
    boxes.add_argument(
        "--threshold",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="compare boxes with at least this score (default: 0.3)",
    )
    boxes.add_argument("--thresholds-a", metavar="FILE", help="YAML file with a threshold per category, for RUN_A")
    boxes.add_argument("--thresholds-b", metavar="FILE", help="YAML file with a threshold per category, for RUN_B")
    written = parser.add_argument_group("output")
    written.add_argument(
        "--output", metavar="URI", help="HTML file to write, with a .json file beside it (default: in RUN_B)"
    )
    written.add_argument("--images", type=int, default=300, metavar="N", help="most images to show (default: 300)")
    boxes.add_argument(
        "--partial", action="store_true", help="accept incomplete runs, and ignore categories that only one run has"
    )
    written.add_argument("--force", action="store_true", help="replace files that are not a comparison by labeler")
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from labeler.errors import Refused
    from labeler.labels.thresholds import NOTHING_KEPT
    from labeler.review.comparison import compare_runs
    from labeler.runs.erasure.made import note_made
    from labeler.runs.fitted_on import thresholds_for

    if not 0 <= arguments.threshold <= 1:
        raise Refused(f"--threshold is a score from 0 to 1, got {arguments.threshold}")
    if arguments.images < 0:
        raise Refused(f"--images is 0 or more, got {arguments.images}")
    runs = require_run(arguments.first_uri), require_run(arguments.second_uri)
    thresholds = (
        thresholds_for(runs[0], arguments.thresholds_a, default=arguments.threshold),
        thresholds_for(runs[1], arguments.thresholds_b, default=arguments.threshold),
    )
    target = arguments.output or runs[1].path(f"compare-{runs[0].manifest.run_id[:8]}.html")
    if not target.endswith(".html"):
        raise Refused(f"--output is the name of an .html file, got {storage.redact(target)}")
    replaced = _replaced(target, force=arguments.force)
    for run in runs:
        note_made(run, storage.absolute_uri(target))
    for name, one in zip("AB", thresholds, strict=True):
        if not one.keep_any:
            print(f"labeler: warning: {name}: {NOTHING_KEPT}", file=sys.stderr)
    found = compare_runs(runs, thresholds, target, partial=arguments.partial, max_images=arguments.images)
    print("\n".join([*_lines(found, runs[0].vocabulary()), storage.redact(target), *replaced]))
    return 0


def _replaced(target: str, *, force: bool) -> list[str]:
    """Return a line for each file that is replaced. Raises Refused if labeler did not write one of them."""
    from labeler.review.comparison import numbers_uri

    numbers = require_replaceable(
        numbers_uri(target),
        signature.describe_comparison,
        "numbers by `labeler compare`",
        force=force,
        max_bytes=signature.HEAD_BYTES,
    )
    found = require_replaceable_page(target, force=force), numbers
    return [f"replaces: {about}" for about in found if about]


def _lines(found: Comparison, vocabulary: Vocabulary) -> list[str]:
    """Counts of all categories together, then of those that agree least."""
    ordered = sorted(
        ((counts.agreement, -counts.first - counts.second, id_, counts) for id_, counts in found.categories.items()
         if counts.agreement is not None)
    )  # fmt: skip
    rows = [("all categories", found.total), *((vocabulary.by_id[id_].name, counts) for *_, id_, counts in ordered)]
    head = f"{'':24}{'agreement':>10}{'A':>9}{'B':>9}{'moved':>8}{'renamed':>8}{'lost':>8}{'added':>8}"
    more = [f"... and {len(rows) - 1 - _LINES:,} categories more"] if len(rows) - 1 > _LINES else []
    facts = [f"{found.images:,} images compared, {found.identical:,} of them identical"]
    if any(not_asked := found.facts["not_asked"]):
        facts.append(
            f"excluded: {not_asked[0]:,} boxes of A and {not_asked[1]:,} of B with names that the other run was not "
            "asked for in their images"
        )
    return [*facts, head, *(_line(*row) for row in rows[: _LINES + 1]), *more]


def _line(name: str, counts: ChangeCounts) -> str:
    shown = "".join(c if c.isprintable() else " " for c in name)[:23]
    agreement = "-" if counts.agreement is None else f"{counts.agreement:.3f}"
    numbers = (counts.moved, counts.renamed, counts.lost, counts.added)
    return f"{shown:24}{agreement:>10}{counts.first:>9,}{counts.second:>9,}" + "".join(f"{n:>8,}" for n in numbers)

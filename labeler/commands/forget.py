"""`labeler forget`: take images out of a run for good."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from labeler import storage
from labeler.commands.arguments import Verbs, require_run
from labeler.errors import Refused, counted

_SHOWN = 10


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("forget", help="deletion requests: take images out of a run and all derived from it")
    parser.add_argument("run_uri", metavar="RUN", help="run folder")
    parser.add_argument(
        "--keys",
        metavar="FILE",
        help="images to remove, one per line: file name as in exports, key or digest; or a list in .json or .yaml, or "
        ".csv with the column file_name, image_key or digest (default: images on the run's own list that were labeled "
        "since)",
    )
    parser.add_argument("--dry-run", action="store_true", help="count what would be removed; change nothing")
    parser.add_argument(
        "--future",
        action="store_true",
        help="block names that are not in the run, for images that come later, even if none is in it",
    )
    parser.set_defaults(run=_forget)


def _forget(arguments: argparse.Namespace) -> int:
    from labeler.runs.erasure.erase import count_named, forget, forget_listed
    from labeler.runs.erasure.name_files import read_names

    run = require_run(arguments.run_uri)
    if arguments.keys is None:
        if arguments.dry_run or arguments.future:
            raise Refused("--dry-run and --future need the names of --keys")
        outcome = forget_listed(run)
    else:
        names = read_names(storage.absolute_uri(arguments.keys))
        if arguments.dry_run:
            return _dry_run(*count_named(run, names))
        outcome = forget(run, names, future=arguments.future)
    runs = f" in {len(outcome.runs):,} runs" if len(outcome.runs) > 1 else ""
    print(f"removed: {counted(outcome.images, 'image')}; {counted(outcome.units, 'unit file')} rewritten{runs}")
    if outcome.unknown:
        print(f"not in the run: {counted(len(outcome.unknown), 'name')}, kept out of what is labeled from now on:")
        _print_some(outcome.unknown)
    for uri in outcome.untouched:
        print(f"may still show removed images, re-create it: {storage.redact(uri)}")
    for uri, why in outcome.unreached.items():
        print(f"not reached, forget in it where it lies now: derived run {storage.redact(f'{uri} ({why})')}")
    print("not reached: the images themselves, their keys in the rows and in groups/, older versions that the bucket")
    print("  keeps, copies of exports, and a job that is running now (forget again when it has ended)")
    return 0


def _dry_run(images: int, unknown: Sequence[str]) -> int:
    """Exit code 2 where nothing is found, as without --dry-run."""
    print(f"would be removed: {counted(images, 'image')}")
    if unknown:
        print(f"not in the run: {counted(len(unknown), 'name')}:")
        _print_some(unknown)
    return 0 if images else Refused.exit_code


def _print_some(names: Sequence[str]) -> None:
    for line in [*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])]:
        print(f"  {line}")

"""`labeler export`: a run in the formats of trainers, without a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands import export_options as options
from labeler.commands.arguments import Verbs, require_complete, require_run
from labeler.errors import Refused, StorageError

if TYPE_CHECKING:
    from labeler.exports.export import ExportSummary


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("export", help="write a run's labels for trainers, without a GPU")
    parser.add_argument("run_uri", metavar="RUN", help="the run folder")
    parser.add_argument("--to", choices=options.FORMATS, required=True, help="the format")
    parser.add_argument("--output", metavar="URI", help="file or folder to write (default below RUN/exports)")
    parser.add_argument("--partial", action="store_true", help="export an incomplete run as far as it is")
    options.add_selection(parser)
    options.add_layout(parser)
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from labeler.exports.export import export_run
    from labeler.runs import read_snapshot

    run = require_run(arguments.run_uri)
    plan, progress = read_snapshot(run)
    if not arguments.partial:
        require_complete(run, plan, progress, "export what there is with --partial")
    selection, format_ = options.read_selection(arguments, run), options.read_format(arguments)
    single = options.is_single_file(arguments)
    extension = f".{options.SINGLE_FILES[arguments.to]}" if single else ""
    target = _target(arguments.output, run.path(f"exports/{arguments.to}{extension}"))
    summary = export_run(run, plan, progress, selection, format_, target.rstrip("/"), single_file=single)
    print("\n".join(_describe(summary)))
    if warning := _warning(selection.splits.names, summary.totals.images):
        print(f"labeler: warning: {warning}", file=sys.stderr)
    return 0


def _target(asked: str | None, default: str) -> str:
    """Where to write; refused where that cannot even be asked for."""
    if asked is None:
        return default
    try:
        if not asked.rpartition("://")[2].strip("/ "):
            raise StorageError("it names no file or folder")
        if asked.encode("utf-8", "replace").decode() != asked:
            raise StorageError("it is no UTF-8 text")
        storage.head(asked)
    except StorageError as error:
        raise Refused(f"--output {storage.redact(asked)!r} cannot be used: {error}") from error
    return asked


def _warning(splits: Sequence[str], images: Mapping[str, int]) -> str | None:
    """What is surely not meant: nothing at all, or a split that data.yaml or a trainer names and that has no image."""
    if not any(images.values()):
        return "no image is selected, the export is empty"
    empty = ", ".join(name for name in splits if not images.get(name))
    return f"no image fell into {empty}: give it a larger share" if empty else None


def _describe(summary: ExportSummary) -> list[str]:
    totals = summary.totals
    images = sum(totals.images.values())
    lines = [f"{storage.redact(summary.uri)}: {images:,} images, {totals.annotations:,} annotations"]
    if len(totals.images) > 1:
        lines.append("splits: " + ", ".join(f"{name} {count:,}" for name, count in sorted(totals.images.items())))
    if totals.bytes_read:
        lines.append(f"read: {totals.bytes_read:,} bytes of images")
    if totals.not_selected:
        lines.append(f"not selected: {totals.not_selected:,} images")
    if totals.left_out:
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(totals.left_out.items()))
        lines.append(f"left out, because they could not be labeled: {reasons}")
    picks = summary.picks
    if picks is not None and picks.groups:
        lines.append(
            f"kept in one split: {picks.grouped:,} images in {picks.groups:,} groups (near copies, or --group-by), "
            f"the largest of {picks.largest:,}"
        )
    return lines

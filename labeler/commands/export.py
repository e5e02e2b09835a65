"""`labeler export`: a run in the formats of trainers, without a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands import export_formats as formats
from labeler.commands import export_options as options
from labeler.commands.arguments import Verbs, require_replaceable, require_snapshot
from labeler.errors import Refused, StorageError

if TYPE_CHECKING:
    from labeler.exports.export import ExportSummary
    from labeler.exports.selection import Selection
    from labeler.exports.totals import ExportTotals


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("export", help="write a run's labels for trainers, without a GPU")
    parser.add_argument("run_uri", metavar="RUN", help="run folder")
    parser.add_argument("--to", choices=formats.FORMATS, required=True, help="format to write")
    parser.add_argument("--output", metavar="URI", help="file or folder to write (default: below RUN/exports)")
    parser.add_argument("--partial", action="store_true", help="accept an incomplete run")
    parser.add_argument(
        "--sample", metavar="FILE", help="write only the images of a sample by `labeler sample`, as tasks"
    )
    options.add_selection(parser)
    formats.add_layout(parser)
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    summary, replaced = export_as(arguments, _warn)
    print("\n".join([*_describe(summary), *([f"replaces: {replaced}"] if replaced else [])]))
    return 0


def _warn(warning: str) -> None:
    print(f"labeler: warning: {warning}", file=sys.stderr)


def export_as(arguments: argparse.Namespace, warn: Callable[[str], None]) -> tuple[ExportSummary, str | None]:
    """Export as the command's arguments say.

    Args:
        warn: told what the caller can hardly have meant.

    Returns:
        What was written, and what it replaced if it is one file.
    """
    from labeler.exports.export import export_run
    from labeler.labels.thresholds import NOTHING_KEPT
    from labeler.runs import layout

    snapshot = require_snapshot(arguments, "export")
    run = snapshot.run
    selection = options.read_selection(arguments, run)
    format_ = formats.read_format(arguments, selection.splits.names)
    options.require_place(selection, format_)
    if not selection.thresholds.keep_any:
        warn(NOTHING_KEPT)
    single = formats.is_single_file(arguments)
    extension = f".{formats.SINGLE_FILES[arguments.to]}" if single else ""
    default = run.path(f"{layout.EXPORTS_FOLDER}/{arguments.to}{extension}")
    target = _target(arguments.output, default, folder=not single)
    replaced = _replaced(target, arguments.to) if single else None
    summary = export_run(snapshot, selection, format_, target.rstrip("/"), single_file=single)
    if warning := _warning(selection, summary.totals):
        warn(warning)
    return summary, replaced


def _replaced(target: str, to: str) -> str | None:
    """Return what the one file of an export replaces. Raises Refused if that is not such a file."""
    from labeler.exports import coco_files, odvg

    describe = odvg.describe_written if to == "odvg" else coco_files.describe_written
    what, or_else = f"an export by `labeler export --to {to}`", "delete it first"
    return require_replaceable(target, describe, what, or_else=or_else, max_bytes=4096)


def _target(asked: str | None, default: str, *, folder: bool) -> str:
    """Return where to write; refused where that cannot even be asked for."""
    if asked is None:
        return default
    try:
        if not asked.rpartition("://")[2].strip("/ "):
            raise StorageError("it names no file or folder")
        if asked.encode("utf-8", "replace").decode() != asked:
            raise StorageError("it is not valid UTF-8")
        found = storage.head(asked)
    except StorageError as error:
        raise Refused(f"--output {storage.redact(asked)!r} cannot be used: {error}") from error
    if folder and found is not None and storage.is_local(asked):  # a bucket may have both of one name
        raise Refused(f"--output {storage.redact(asked)} is a file; give a folder")
    return asked


def _warning(selection: Selection, totals: ExportTotals) -> str | None:
    """Return what cannot be meant: no image or box at all, or a split that has none of one of them."""
    if not any(totals.images.values()):
        return "no image is selected, the export is empty"
    backgrounds = selection.max_boxes == 0  # asked for
    if not totals.annotations and not backgrounds:
        if not selection.thresholds.keep_any:
            return None  # said before
        return "no box is kept, the images are all exported as background: lower --threshold, or check the options"
    for what, counts in (("image", totals.images), ("box", totals.boxes)):
        empty = ", ".join(name for name in selection.splits.names if not counts.get(name))
        if empty and not (what == "box" and backgrounds):
            return f"no {what} fell into {empty}: give it a larger share"
    return None


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
        lines.append(f"excluded, because they could not be labeled: {reasons}")
    picks = summary.picks
    if picks is not None and picks.groups:
        lines.append(
            f"kept in one split: {picks.grouped:,} images in {picks.groups:,} groups (near-duplicates, or --group-by), "
            f"the largest of {picks.largest:,}"
        )
    return lines

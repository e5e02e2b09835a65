"""`labeler correct`: labels that people corrected in their tools, as a run that derives from theirs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands.arguments import Verbs, add_log_format, print_result, require_run
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.corrections.corrections import Corrections
    from labeler.runs import Snapshot

_FORMATS = ("label-studio", "cvat", "x-anylabeling", "coco", "marks")
_ONLY_FOR = {
    "reviewed": ("cvat", "coco"),
    "jobs": ("cvat",),
    "annotator": ("label-studio",),
    "several": ("label-studio",),
    "envelopes": ("label-studio", "cvat", "x-anylabeling"),
}


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("correct", help="corrected labels back into a derived run; docs/guides/corrections.md")
    parser.add_argument("run_uri", metavar="RUN", help="complete run that was exported")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="file that the tool exported (x-anylabeling: a folder)"
    )
    parser.add_argument("--from", dest="form", choices=_FORMATS, help="format of the tool")
    parser.add_argument("--from-run", metavar="URI", help="corrected run of another model, whose reviews are copied")
    written = parser.add_argument_group("output")
    written.add_argument("--output", metavar="URI", help="folder of the derived run (default: RUN-corrected)")
    written.add_argument("--dry-run", action="store_true", help="check the files and print the counts; write nothing")
    tool = parser.add_argument_group("options of some formats")
    tool.add_argument(
        "--reviewed",
        metavar="all|FILE",
        help="cvat, coco: file with the names of the reviewed images, one per line, or all",
    )
    tool.add_argument(
        "--jobs", metavar="FILE", help="cvat: its jobs as JSON; images of completed jobs count as reviewed"
    )
    tool.add_argument(
        "--annotator", type=int, metavar="N", help="label-studio: take only the annotations of the person with this ID"
    )
    tool.add_argument(
        "--several",
        choices=["refuse", "newest"],
        help="label-studio: what to do with several annotations of a task (default: refuse)",
    )
    tool.add_argument("--envelopes", action="store_true", help="use the box around rotated and other shapes")
    add_log_format(parser)
    parser.set_defaults(run=_correct)


def _correct(arguments: argparse.Namespace) -> int:
    from labeler.corrections.reviewed import COMPLETE
    from labeler.pipeline.correct import correct
    from labeler.runs import read_snapshot

    _require_own_options(arguments)
    run = require_run(arguments.run_uri)
    run.s3_rules().apply()
    snapshot = read_snapshot(run)
    snapshot.require_complete("correct it once it is")
    corrections = _read(arguments, snapshot)
    lines = corrections.tally.lines(run.vocabulary())
    if not corrections.decisions:
        raise Refused(f"no reviewed image: {'; '.join(line.partition(' ')[2].strip() for line in lines[:1])}")
    if arguments.dry_run:
        print_result(lines)
        return 0
    output = storage.absolute_uri(arguments.output or f"{run.uri.rstrip('/')}-corrected")
    source = arguments.from_run or arguments.files[0]
    outcome = correct(
        run, corrections, output, about={"from": arguments.form or "run", "source": storage.redact(source)}
    )
    shown = storage.redact(outcome.run.uri)
    truth = f"--annotations {shown}" if corrections.tally.images[COMPLETE] else f"--sample SAMPLE --marks {shown}"
    lines.append(f"written     {shown}; how good the model is there: labeler evaluate {arguments.run_uri} {truth}")
    print_result(lines)
    return 0


def _read(arguments: argparse.Namespace, snapshot: Snapshot) -> Corrections:
    from labeler.corrections.corrections import Options, read_corrections
    from labeler.corrections.label_studio import AnnotationChoice

    if arguments.from_run:
        from labeler.corrections.carry_over import carry_over

        return carry_over(snapshot, require_run(arguments.from_run))
    choice = AnnotationChoice(arguments.annotator, arguments.several == "newest")
    options = Options(arguments.form, arguments.reviewed, arguments.jobs, choice, arguments.envelopes)
    return read_corrections(snapshot, arguments.files, options)


def _require_own_options(arguments: argparse.Namespace) -> None:
    if (arguments.form is None) == (arguments.from_run is None) or bool(arguments.files) == bool(arguments.from_run):
        raise Refused("say FILE and its format (--from), or a corrected run (--from-run)")
    for name, formats in _ONLY_FOR.items():
        if getattr(arguments, name) and arguments.form not in formats:
            of = f"--from {arguments.form}" if arguments.form else "--from-run"
            raise Refused(f"--{name} is for --from {' and '.join(formats)}; {of} does not have it")

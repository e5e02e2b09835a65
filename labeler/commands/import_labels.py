"""`labeler import`: predictions or labels that were made elsewhere, as a run."""

from __future__ import annotations

import argparse
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from labeler import storage
from labeler.commands.arguments import Verbs, add_log_format, print_result
from labeler.commands.label import describe

if TYPE_CHECKING:
    from labeler.imports.labels import Labels

_FORMATS = ("coco", "coco-results", "yolo", "label-studio", "parquet")


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("import", help="make a run of predictions or labels that were made elsewhere")
    parser.add_argument("file", metavar="FILE", help="labels: a JSON file, data.yaml, or a folder of tables")
    parser.add_argument(
        "--images",
        nargs="+",
        required=True,
        metavar="INPUT",
        help="folders, globs or files of the images, as input.uri of a configuration",
    )
    parser.add_argument("--from", dest="format", required=True, choices=_FORMATS, help="format of FILE")
    parser.add_argument("--annotations", metavar="FILE", help="coco-results: COCO file with the images and categories")
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="vocabulary with categories and IDs, matched by name (default: those of FILE)",
    )
    parser.add_argument("--output", metavar="URI", help="folder of the run (default: FILE-run, without extension)")
    add_log_format(parser)
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from labeler.config import make_config
    from labeler.errors import Refused
    from labeler.pipeline.import_labels import MOST_UNIT_IMAGES, import_labels
    from labeler.vocabulary import Vocabulary

    if arguments.annotations and arguments.format != "coco-results":
        raise Refused("--annotations belongs to --from coco-results; other formats name their images themselves")
    file = storage.absolute_uri(arguments.file)
    vocabulary = Vocabulary.load(arguments.vocabulary) if arguments.vocabulary else None
    output = storage.absolute_uri(arguments.output or f"{PurePosixPath(file).with_suffix('')}-run")
    values: dict[str, Any] = {
        "input": {"uri": [storage.absolute_uri(uri) for uri in arguments.images]},
        "output": {"uri": output},
        "vocabulary": arguments.vocabulary or file,
        "model": {"name": f"imported from {storage.redact(storage.basename(file))}"},
        "detect": {"score_floor": 0.0, "max_detections": 0},
        "unit": {"max_images": MOST_UNIT_IMAGES},
    }
    labels = _read(arguments.format, file, arguments.annotations)
    outcome, lines = import_labels(labels, make_config(values), vocabulary)
    print_result([*lines, *describe(outcome)])
    return 0


def _read(format: str, file: str, annotations: str | None) -> Labels:
    from labeler.imports.coco import read_coco, read_results
    from labeler.imports.label_studio import read_label_studio
    from labeler.imports.tables import read_tables
    from labeler.imports.yolo import read_yolo

    if format == "coco-results":
        return read_results(file, storage.absolute_uri(annotations) if annotations else None)
    readers = {"coco": read_coco, "yolo": read_yolo, "label-studio": read_label_studio, "parquet": read_tables}
    return readers[format](file)

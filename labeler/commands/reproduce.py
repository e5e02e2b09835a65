"""`labeler reproduce`: measure a published figure again, and say whether it came out."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs
from labeler.errors import Refused
from labeler.reproduction import BENCHMARKS


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "reproduce", help="label and evaluate by a published protocol: exit 0 reproduced, 1 another figure"
    )
    parser.add_argument("benchmark", metavar="BENCHMARK", choices=BENCHMARKS, help="benchmark whose protocol is used")
    parser.add_argument("model", metavar="MODEL", help="checkpoint: Hugging Face Hub ID, folder or URI")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of ray.*, model.device or model.dtype"
    )
    parser.add_argument("--images-folder", metavar="URI", required=True, help="images of the benchmark")
    parser.add_argument(
        "--annotations", metavar="URI", required=True, help="ground truth of the benchmark: COCO or LVIS JSON"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=0,
        metavar="N",
        help="also compare the boxes of N images with those of transformers (default: 0)",
    )
    parser.add_argument("--entry", metavar="NAME", help="checkpoint of `labeler models` that MODEL is a copy of")
    parser.add_argument("--output", metavar="URI", help="folder of the run (default: reproduce-BENCHMARK-NAME)")
    parser.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> int:
    from labeler.reproduction.reproduce import FILE, reproduce

    if arguments.images < 0:
        raise Refused(f"--images is 0 or more, got {arguments.images}")
    name = storage.basename(arguments.model.rstrip("/"))
    made = reproduce(
        arguments.benchmark,
        arguments.model,
        arguments.images_folder,
        arguments.annotations,
        run_uri=arguments.output or f"reproduce-{arguments.benchmark}-{name}",
        entry=arguments.entry,
        compared=arguments.images,
        overrides=arguments.overrides,
    )
    print("\n".join([*made.lines(), f"written     {storage.redact(made.run.path(FILE))}, to attach to an issue"]))
    return 1 if made.problems else 0

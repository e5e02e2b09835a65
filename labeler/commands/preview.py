"""`labeler preview`: label a sample on this machine and draw it."""

from __future__ import annotations

import argparse

from labeler import signature, storage
from labeler.commands.arguments import CHECKING_CONFIG, Verbs, add_config, require_replaceable, starting
from labeler.errors import counted


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("preview", help="label a sample here and draw it on a contact sheet")
    add_config(parser)
    parser.add_argument("--images", type=int, default=50, metavar="N", help="number of images (default: 50)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="draw boxes with at least this score (default: 0.3)",
    )
    parser.add_argument("--png", default="preview.png", metavar="FILE", help="image to write (default: preview.png)")
    parser.add_argument("--force", action="store_true", help="replace a file that is not an image by `labeler preview`")
    parser.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    with starting() as startup:
        from labeler.config import load_config
        from labeler.labeling.resolve import resolve_job
        from labeler.labels.contact_sheet import describe_sheet
        from labeler.trial.preview import preview

        config = load_config(arguments.config, arguments.overrides)
        replaced = require_replaceable(
            arguments.png,
            describe_sheet,
            "an image by `labeler preview`",
            force=arguments.force,
            option="--png",
            max_bytes=signature.HEAD_BYTES,
        )
        startup.step(CHECKING_CONFIG)
        job = resolve_job(config)
        startup.step(f"choosing {counted(arguments.images, 'image')}, loading the model and labeling them here")
        result = preview(job, sample=arguments.images, threshold=arguments.threshold)
    storage.put(arguments.png, result.png)
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(result.statuses.items()))
    images, boxes = counted(sum(result.statuses.values()), "image"), "box" if result.detections == 1 else "boxes"
    print(f"{arguments.png}: {images} ({statuses}), {result.detections} {boxes} drawn")
    if replaced:
        print(f"replaces: {replaced}")
    return 0

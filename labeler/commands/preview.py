"""`labeler preview`: label a sample on this machine and draw it."""

from __future__ import annotations

import argparse

from labeler import storage
from labeler.commands.arguments import Verbs, add_config


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("preview", help="label a sample here and draw it on a contact sheet")
    add_config(parser)
    parser.add_argument("--images", type=int, default=50, metavar="N", help="how many images (default 50)")
    parser.add_argument("--threshold", type=float, default=0.3, help="draw boxes with at least this score")
    parser.add_argument("--png", default="preview.png", metavar="FILE", help="where to write (default preview.png)")
    parser.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    from labeler.config import load_config
    from labeler.labeling.resolve import resolve_job
    from labeler.trial.preview import preview

    job = resolve_job(load_config(arguments.config, arguments.overrides))
    result = preview(job, sample=arguments.images, threshold=arguments.threshold)
    storage.put(arguments.png, result.png)
    statuses = ", ".join(f"{status} {count}" for status, count in sorted(result.statuses.items()))
    print(f"{arguments.png}: {sum(result.statuses.values())} images ({statuses}), {result.detections} boxes drawn")
    return 0

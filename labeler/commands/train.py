"""`labeler train`: train a Grounding DINO on synthetic shapes, a COCO file or a run's labels."""

from __future__ import annotations

import argparse

from labeler.commands.arguments import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("train", help="train a detector on shapes, a COCO file or a run; resumes if interrupted")
    parser.add_argument(
        "config", metavar="CONFIG", help="YAML file with output, model, data, prompts, optimizer, train"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override of the file, e.g. train.steps=500")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="ignore missing images, unknown categories and bad boxes (partial=true)",
    )
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from labeler.training.config import load_training_job
    from labeler.training.job import run_worker
    from labeler.training.outputs import print_record

    job = load_training_job(arguments.config, [*arguments.overrides, *(["partial=true"] if arguments.partial else [])])
    if job.ray.workers:
        from labeler.training.on_ray import run_on_ray

        run_on_ray(job)
    else:
        run_worker(job, report=print_record)
    return 0

"""`labeler estimate`: what a run would take, from a sample that is labeled here; nothing is written."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from labeler.commands.arguments import CHECKING_CONFIG, LISTING, Verbs, add_config, starting
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.config import Config
    from labeler.pipeline.startup import Startup


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("estimate", help="time a sample here and say what a run would take; write nothing")
    add_config(parser)
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="number of images to time; 0 times none (default: 16 on a CPU, a unit on a GPU)",
    )
    parser.add_argument(
        "--price-per-hour", type=float, metavar="PRICE", help="price of one worker per hour, in any currency"
    )
    add_annotations(parser)
    parser.set_defaults(run=_estimate)


def add_annotations(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--annotations",
        metavar="URI",
        help="COCO or LVIS JSON: print the recall ceiling of the names that prompts.from=RUN asks for",
    )


def _estimate(arguments: argparse.Namespace) -> int:
    with starting() as startup:
        from labeler.config import load_config

        config = load_config(arguments.config, arguments.overrides)
        price, annotations = arguments.price_per_hour, arguments.annotations
        return print_estimate(config, startup, images=arguments.images, price_per_hour=price, annotations=annotations)


def print_estimate(
    config: Config,
    startup: Startup,
    *,
    images: int | None,
    price_per_hour: float | None,
    annotations: str | None = None,
) -> int:
    """Print what a run of `config` would take.

    Args:
        startup: with the steps so far.
        images: to time; None for a number that fills batches, 0 for none.
        annotations: ground truth, for the recall ceiling of names per image.
    """
    if images is not None and images < 0:
        raise Refused(f"{images} images cannot be timed; give a number from 0 on")
    from labeler.labeling.resolve import plan_input, resolve_job
    from labeler.pipeline.site import site_of
    from labeler.trial.counting import count_images
    from labeler.trial.estimate import describe_estimate, describe_plan, describe_skipped, time_sample
    from labeler.trial.names import require_names
    from labeler.trial.names_cost import describe_names
    from labeler.trial.tiles import describe_tiles

    startup.step(CHECKING_CONFIG)
    job = resolve_job(config)
    config = job.config
    startup.step(LISTING)
    beside = Counter[str]()
    plan = plan_input(config, counts=beside)
    about_names: list[str] = []
    if job.per_image is not None:
        require_names(job, job.per_image, plan)
        about_names += describe_names(job, job.per_image, plan, annotations)
    elif annotations:
        raise Refused("--annotations is about prompts.from: without it every image is asked for all names")
    for line in (*describe_plan(job, plan), *about_names):
        print(line)
    for line in describe_tiles(job, plan):
        print(line)
    for line in describe_skipped(config, plan, beside):
        print(line)
    if images == 0:
        print("timed    nothing, as 0 images were asked for: no time, output or cost is estimated")
        return 0
    startup.step("loading the model and labeling a few images here")
    timing = time_sample(job, plan, images=images)
    site = site_of(config, on_gpu=timing.device != "cpu")
    for line in describe_estimate(config, timing, count_images(config, plan), site, price_per_hour=price_per_hour):
        print(line)
    return 0

"""`labeler label`: run the main job, or say what it would take (--dry-run) or where its time goes (--profile)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands.arguments import (
    CHECKING_CONFIG,
    LISTING,
    Verbs,
    add_config,
    add_log_format,
    print_result,
    starting,
)
from labeler.commands.estimate import add_annotations
from labeler.errors import Refused, counted

if TYPE_CHECKING:
    from labeler.config import Config
    from labeler.pipeline.session import Outcome
    from labeler.pipeline.startup import Startup


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("label", help="label every image of the input, or resume an interrupted run")
    add_config(parser)
    add_run_options(parser)
    instead_of = parser.add_argument_group("instead of a run")
    instead = instead_of.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="print what a run would take; write nothing")
    instead.add_argument("--profile", action="store_true", help="print where the time goes, on a sample; write nothing")
    instead_of.add_argument(
        "--time-images",
        type=int,
        metavar="N",
        help="number of images that --dry-run or --profile times here; 0 times none (default: --dry-run 16 on a "
        "CPU and a unit on a GPU, --profile 4)",
    )
    add_annotations(instead_of)
    instead_of.add_argument("--trace", metavar="FILE", help="also write a Chrome trace of one batch, with --profile")
    parser.set_defaults(run=_label)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options of a run itself, which `labeler submit` hands on to the cluster."""
    add_log_format(parser)
    parser.add_argument("--extend", action="store_true", help="list the input again and add new shards to the plan")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--price-per-hour", type=float, metavar="PRICE", help="price of one worker per hour, in any currency"
    )
    limits.add_argument(
        "--stop-after-hours", type=float, metavar="HOURS", help="end after this time; the same command resumes"
    )
    limits.add_argument(
        "--max-cost", type=float, metavar="COST", help="end before the workers cost more; needs --price-per-hour"
    )


def _label(arguments: argparse.Namespace) -> int:
    with starting() as startup:
        from labeler.config import load_config

        config = load_config(arguments.config, arguments.overrides)
        _require_own_options(arguments)
        if arguments.dry_run:
            return _dry_run(arguments, config, startup)
        if arguments.profile:
            return _profile(arguments, config, startup)
        from labeler.pipeline.budget import Budget
        from labeler.pipeline.label import label

        budget = Budget.of(arguments.stop_after_hours, arguments.max_cost, arguments.price_per_hour)
        outcome = label(config, extend=arguments.extend, budget=budget, startup=startup)
    print_result(describe(outcome))
    return 0


def _require_own_options(arguments: argparse.Namespace) -> None:
    if arguments.annotations and not arguments.dry_run:
        raise Refused("--annotations belongs to --dry-run")
    if arguments.trace and not arguments.profile:
        raise Refused("--trace belongs to --profile")
    limits = (arguments.stop_after_hours, arguments.max_cost)
    if any(limit is not None for limit in limits) and (arguments.dry_run or arguments.profile):
        raise Refused("--stop-after-hours and --max-cost limit a run: omit --dry-run and --profile")


def describe(outcome: Outcome) -> list[str]:
    """A complete run in a few lines."""
    from labeler.labels.records import ALL_NAMES
    from labeler.shards import skipped

    report = outcome.report
    statuses = ", ".join(f"{status} {count:,}" for status, count in report.statuses.items())
    lines = [
        f"complete: {counted(report.images, 'image')} in {counted(report.shards, 'shard')}: {statuses}",
        f"{counted(report.detections, 'detection')} in {storage.redact(outcome.run.uri)}",
    ]
    if report.images_to_forget:
        lines.append(describe_to_forget(report.images_to_forget, outcome.run.uri))
    if report.skipped_files:
        lines.append(f"skipped, not images: {skipped.describe(report.skipped_files)}")
    if asked_for_all := report.errors.get(ALL_NAMES):
        asked = "image was" if asked_for_all == 1 else "images were"
        lines.append(f"{asked_for_all:,} {asked} asked for all names: prompts.from knows none for them")
    if report.images_at_cap:
        lines.append(f"{counted(report.images_at_cap, 'image')} reached detect.max_detections")
    return lines


def describe_to_forget(images: int, run_uri: str) -> str:
    """Return what to do about images that are on a run's list of removed images, and were labeled all the same."""
    return (
        f"warning: {counted(images, 'image')} to be removed {'has' if images == 1 else 'have'} labels; "
        f"run: labeler forget {storage.redact(run_uri)}"
    )


def _dry_run(arguments: argparse.Namespace, config: Config, startup: Startup) -> int:
    from labeler.commands.estimate import print_estimate

    images, price, annotations = arguments.time_images, arguments.price_per_hour, arguments.annotations
    return print_estimate(config, startup, images=images, price_per_hour=price, annotations=annotations)


def _profile(arguments: argparse.Namespace, config: Config, startup: Startup) -> int:
    images = 4 if arguments.time_images is None else arguments.time_images
    if images < 1:
        raise Refused(f"--time-images {images}: a profile takes at least one image")
    from labeler.labeling.resolve import plan_input, resolve_job
    from labeler.trial.profile import describe_profile, profile_sample

    startup.step(CHECKING_CONFIG)
    job = resolve_job(config)
    startup.step(LISTING)
    plan = plan_input(config)
    startup.step(f"loading the model and labeling {counted(images, 'image')} here")
    profile = profile_sample(job, plan, images=images, trace=arguments.trace)
    print("\n".join(describe_profile(profile)))
    if arguments.trace:
        print(f"trace    {arguments.trace}, for chrome://tracing or ui.perfetto.dev")
    return 0

"""The options of `labeler export` that say which boxes and images, and the selection they mean."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from labeler import storage
from labeler.commands.score_options import add_score, read_score
from labeler.errors import Refused, did_you_mean

if TYPE_CHECKING:
    from labeler.exports.formats import Format
    from labeler.exports.selection import Selection
    from labeler.exports.splits import Splits
    from labeler.exports.uncertain import Uncertain
    from labeler.labels.thresholds import Thresholds
    from labeler.runs import Run
    from labeler.vocabulary import Vocabulary

SUPPRESS_IOU = 0.5  # on by default: one object should carry one category (docs/explanation/prompts-and-chunks.md)
NEAR_COPY_BITS = 3
SAMPLE_FORMATS = ("label-studio", "cvat", "x-anylabeling")
YOLO_SPLIT = "train=0.95,val=0.05"  # ultralytics takes no data.yaml without both


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select boxes and images."""
    boxes = parser.add_argument_group("which boxes")
    boxes.add_argument(
        "--threshold", type=float, default=0.0, metavar="SCORE", help="keep boxes with at least this score (default: 0)"
    )
    boxes.add_argument(
        "--thresholds", metavar="FILE", help="YAML file with a threshold per category, as `labeler calibrate` writes it"
    )
    add_score(boxes)
    boxes.add_argument("--score-below", type=float, metavar="S", help="keep boxes with less than this score")
    boxes.add_argument(
        "--suppress",
        default=str(SUPPRESS_IOU),
        metavar="IOU",
        help=f"class-agnostic NMS: of boxes that overlap more, keep the best; or off (default: {SUPPRESS_IOU})",
    )
    boxes.add_argument(
        "--categories", action="append", metavar="NAME,...", help="keep only these categories, by name or ID"
    )
    boxes.add_argument(
        "--min-side",
        type=float,
        default=1.0,
        metavar="PX",
        help="keep boxes whose shorter side has at least this many pixels (default: 1)",
    )
    boxes.add_argument(
        "--area", metavar="MIN..MAX", help="keep boxes with this area in square pixels, e.g. 1024.. or ..9216"
    )
    boxes.add_argument(
        "--uncertain", metavar="LOW..", help="treat boxes from this score up to their threshold as uncertain"
    )
    boxes.add_argument(
        "--uncertain-as",
        choices=["drop", "crowd", "blank", "image"],
        help="make uncertain boxes background, regions to ignore (coco, voc) or painted over in copies, or leave their "
        "images out (default: drop, as background)",
    )
    images = parser.add_argument_group("which images")
    images.add_argument(
        "--boxes", metavar="MIN..MAX", help="keep images with this number of boxes left, e.g. 1.. to drop empty ones"
    )
    images.add_argument(
        "--where", metavar="SQL", help='keep rows that meet a condition, e.g. "width >= 640 and len(detections) > 2"'
    )
    images.add_argument(
        "--images-per-category",
        type=int,
        metavar="N",
        help="of frequent categories keep no more than about this number of images",
    )
    images.add_argument(
        "--split", metavar="NAME=SHARE,...", help="split the images by their digest, e.g. train=0.9,val=0.1"
    )
    images.add_argument(
        "--group-by", metavar="COLUMN", help="keep images with equal values of this kept column in one split"
    )
    images.add_argument(
        "--near-copies", default=str(NEAR_COPY_BITS), metavar="BITS",
        help="keep near-duplicates in one split: perceptual hashes that differ in at most this number of bits; or off "
        "(default: 3)",
    )  # fmt: skip


def read_selection(arguments: argparse.Namespace, run: Run) -> Selection:
    """Raises Refused for values that make no sense for this run."""
    from labeler.exports.selection import Selection
    from labeler.runs.fitted_on import thresholds_for

    for option, score in (("--threshold", arguments.threshold), ("--score-below", arguments.score_below)):
        if score is not None and not 0 <= score <= 1:
            raise Refused(f"{option} is a score from 0 to 1, got {score}")
    if arguments.sample is not None:
        return _of_sample(arguments, run)
    if not 0 <= arguments.min_side < math.inf:
        raise Refused(f"--min-side is a number of pixels, got {arguments.min_side}")
    min_area, max_area = _bounds(arguments.area, "--area")
    min_boxes, max_boxes = _bounds(arguments.boxes, "--boxes", whole=True)
    if arguments.images_per_category is not None and arguments.images_per_category < 1:
        raise Refused(f"--images-per-category must be 1 or more, got {arguments.images_per_category}")
    score = read_score(arguments, run)
    thresholds = thresholds_for(run, arguments.thresholds, default=arguments.threshold, score=score)
    return Selection(
        score=score,
        where=arguments.where,
        thresholds=thresholds,
        uncertain=_uncertain(arguments, thresholds),
        suppress_iou=read_suppress(arguments.suppress),
        score_below=arguments.score_below,
        categories=_categories(arguments.categories, run.vocabulary()),
        min_side=arguments.min_side,
        min_area=min_area or 0.0,
        max_area=max_area,
        min_boxes=int(min_boxes or 0),
        max_boxes=None if max_boxes is None else int(max_boxes),
        images_per_category=arguments.images_per_category,
        splits=_splits(arguments),
        group_by=arguments.group_by,
        near_copies=_near_copies(arguments.near_copies),
    )


def _of_sample(arguments: argparse.Namespace, run: Run) -> Selection:
    """Exactly the boxes that the sample was drawn from, in its images. Raises Refused for options that change them."""
    from labeler.exports.sampled import HandedOut, read_sample
    from labeler.exports.selection import Selection

    if arguments.to not in SAMPLE_FORMATS:
        raise Refused(f"--sample is for --to {', '.join(SAMPLE_FORMATS)}, whose tasks say how each box was drawn")
    parser = argparse.ArgumentParser()
    add_selection(parser)
    changed = [name for name, default in vars(parser.parse_args([])).items() if getattr(arguments, name) != default]
    if changed:
        option = f"--{changed[0].replace('_', '-')}"
        raise Refused(f"--sample says which boxes and images: omit {option}")
    sample = read_sample(arguments.sample, run)
    if not sample.images:
        raise Refused(f"sample {storage.redact(arguments.sample)} has no box")
    population = sample.population
    return Selection(
        thresholds=population.to_thresholds(),
        suppress_iou=population.suppress,
        min_side=1.0,
        sample=HandedOut(sample, storage.redact(arguments.sample)),
    )


def _uncertain(arguments: argparse.Namespace, thresholds: Thresholds) -> Uncertain | None:
    from labeler.exports.uncertain import DROP, Uncertain
    from labeler.labels.thresholds import NEVER

    text, treatment = arguments.uncertain, arguments.uncertain_as
    if text is None:
        if treatment is not None:
            raise Refused("--uncertain-as needs --uncertain, the scores of uncertain boxes, e.g. --uncertain 0.1..")
        return None
    low, high = _bounds(text, "--uncertain")
    if low is None or high is not None or low > 1:
        raise Refused(f"--uncertain is a lowest score, e.g. 0.1..: they end where thresholds begin; got {text!r}")
    highest = max((t for t in (thresholds.default, *thresholds.by_category.values()) if t != NEVER), default=0.0)
    if low >= highest:
        raise Refused(
            f"--uncertain {text}: no threshold is above it, so no box is uncertain; raise --threshold, or lower it"
        )
    return Uncertain(low, treatment or DROP)


def require_place(selection: Selection, format_: Format) -> None:
    """Raises Refused where a format cannot hold what uncertain boxes become."""
    treatment = None if selection.uncertain is None else selection.uncertain.treatment
    if treatment == "crowd" and not format_.has_ignored:
        raise Refused(
            f"--uncertain-as crowd: {format_.name} has no regions to ignore; coco and voc have, or take image"
        )
    if treatment == "blank" and not format_.needs_pixels:
        raise Refused("--uncertain-as blank paints over copied images: add --images copy")


def _splits(arguments: argparse.Namespace) -> Splits:
    from labeler.exports.splits import Splits, parse_splits

    text = arguments.split or (YOLO_SPLIT if arguments.to == "yolo" else None)
    splits = parse_splits(text) if text else Splits()
    if arguments.to == "yolo" and not {"train", "val"} <= set(splits.names):
        raise Refused(f"--split {text!r}: YOLO needs a train and a val, e.g. {YOLO_SPLIT}")
    return splits


def _categories(wanted: list[str] | None, vocabulary: Vocabulary) -> frozenset[int] | None:
    """Ids of the named categories; a name with a comma in it may be given whole."""
    if not wanted:
        return None
    ids = {category.name: category.id for category in vocabulary.categories if not category.negative}
    ids |= {str(category.id): category.id for category in vocabulary.categories if str(category.id) not in ids}
    words = [word.strip() for text in wanted for word in ([text] if text in ids else text.split(","))]
    problems = [f"{word}: no such category in the run{did_you_mean(word, ids)}" for word in words if word not in ids]
    if problems:
        raise Refused(f"--categories: {len(problems)} unknown", problems)
    return frozenset(ids[word] for word in words)


def _bounds(text: str | None, option: str, *, whole: bool = False) -> tuple[float | None, float | None]:
    """`MIN..MAX`, either end may be missing; `whole` numbers only where asked."""
    if text is None:
        return None, None
    try:
        low, high = (float(int(part) if whole else part) if part else None for part in text.split(".."))
    except (ValueError, OverflowError):
        kind = "whole numbers" if whole else "numbers"
        raise Refused(f"{option} is MIN..MAX, MIN.. or ..MAX, of {kind}; got {text!r}") from None
    if not all(math.isfinite(bound or 0) for bound in (low, high)):
        raise Refused(f"{option} {text!r}: leave an end out for no bound")
    if (low is not None and low < 0) or (high is not None and high < (low or 0)):
        raise Refused(f"{option} {text!r}: the bounds must be 0 or more, and in order")
    return low, high


def read_suppress(text: str) -> float | None:
    """The overlap, None for off. Raises Refused."""
    if text == "off":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Refused(f"--suppress is an overlap from 0 to 1, or off; got {text!r}")
    return value


def _near_copies(text: str) -> int:
    from labeler.exports.near_copies import MAX_BITS

    if text == "off":
        return -1
    if text not in map(str, range(MAX_BITS + 1)):
        raise Refused(f"--near-duplicates is a number of bits from 0 to {MAX_BITS}, or off; got {text!r}")
    return int(text)

"""The options of `labeler export` that say how labels are written, and the format they mean."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labeler import storage
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.exports.formats import Format

FORMATS = (
    "coco", "lvis", "yolo", "odvg", "webdataset", "parquet", "hf", "label-studio", "cvat", "x-anylabeling", "voc"
)  # fmt: skip
BOXES_PER_TASK = 200  # Label Studio's editor gets slow with more
SINGLE_FILES = {"coco": "json", "lvis": "json", "odvg": "jsonl"}  # format -> extension, when it is one file
_CUT_BY_IMAGES = ("coco", "lvis", "odvg", "webdataset", "label-studio", "cvat")
_LOCAL_FILES = re.compile("d=[^&?#]*")  # the query by which Label Studio serves local files; any other may be a secret
_ONLY_FOR = {
    "category_ids": ("coco",),
    "layout": ("coco",),
    "image_prefix": ("label-studio",),
    "labels": ("label-studio", "cvat"),
    "boxes_per_task": ("label-studio", "cvat", "x-anylabeling"),
}


def add_layout(parser: argparse.ArgumentParser) -> None:
    """Add the options for how it is written. Options of some formats alone have no default here, so that others can
    refuse them.
    """
    layout = parser.add_argument_group("how")
    layout.add_argument(
        "--images",
        choices=["none", "copy"],
        default="none",
        help="coco, lvis, odvg, parquet: copy the images, too (default: none)",
    )
    layout.add_argument("--images-per-shard", type=int, metavar="N", help="write files of about N images each")
    layout.add_argument(
        "--negatives",
        type=int,
        default=20,
        metavar="N",
        help="lvis: number of negative categories per image (default: 20)",
    )
    layout.add_argument(
        "--category-ids",
        choices=["vocabulary", "zero-based", "one-based"],
        help="coco: IDs of the vocabulary, or positions, which some trainers need as class indices (default: "
        "vocabulary)",
    )
    layout.add_argument(
        "--layout",
        choices=["flat", "coco", "roboflow"],
        help="coco: labels.json beside images/, annotations/instances_SPLIT.json, or train/, valid/, test/ "
        "(default: flat)",
    )
    layout.add_argument(
        "--labels",
        choices=["all", "present"],
        help="label-studio, cvat: offer all names, or those with a box (default: all)",
    )
    layout.add_argument(
        "--boxes-per-task",
        metavar="N",
        help="label-studio, cvat, x-anylabeling: write images with more boxes as overlapping crops; or off "
        f"(default: {BOXES_PER_TASK} for label-studio)",
    )
    layout.add_argument("--image-prefix", metavar="PREFIX", help="label-studio: URI of the folder that holds images/")


def read_format(arguments: argparse.Namespace, splits: Sequence[str]) -> Format:
    """Raises Refused for options that the format does not have."""
    from labeler.exports import coco_layouts as layouts
    from labeler.exports.coco_files import CocoFormat
    from labeler.exports.cvat import CvatFormat
    from labeler.exports.hugging_face import HuggingFaceFormat
    from labeler.exports.label_studio import LabelStudioFormat
    from labeler.exports.odvg import OdvgFormat
    from labeler.exports.parquet_tables import TablesFormat
    from labeler.exports.pascal_voc import VocFormat
    from labeler.exports.reviewed import ALL_LABELS, IMAGES_PER_TASKS
    from labeler.exports.webdataset_tars import IMAGES_PER_PART, WebDatasetFormat
    from labeler.exports.x_anylabeling import XAnyLabelingFormat
    from labeler.exports.yolo import YoloFormat

    to, copy, limit = arguments.to, arguments.images == "copy", arguments.images_per_shard
    labels, most = arguments.labels or ALL_LABELS, _boxes_per_task(arguments)
    _require_own_options(arguments)
    layouts.require_splits(arguments.layout or layouts.FLAT, splits)
    if to in ("coco", "lvis"):
        ids, layout = arguments.category_ids or layouts.VOCABULARY, arguments.layout or layouts.FLAT
        return CocoFormat(to == "lvis", copy, limit, arguments.negatives, ids, layout)
    if to == "odvg":
        return OdvgFormat(copy, limit)
    if to == "webdataset":
        return WebDatasetFormat(limit or IMAGES_PER_PART)
    if to == "parquet":
        return TablesFormat(copy)
    if to == "label-studio":
        return LabelStudioFormat(_image_prefix(arguments.image_prefix), labels, limit or IMAGES_PER_TASKS, most)
    if to == "cvat":
        return CvatFormat(labels, limit or IMAGES_PER_TASKS, most)
    without_options: dict[str, Format] = {
        "yolo": YoloFormat(),
        "hf": HuggingFaceFormat(),
        "x-anylabeling": XAnyLabelingFormat(boxes_per_task=most),
        "voc": VocFormat(),
    }
    return without_options[to]


def _require_own_options(arguments: argparse.Namespace) -> None:
    to, limit = arguments.to, arguments.images_per_shard
    if limit is not None and limit < 1:
        raise Refused(f"--images-per-shard must be 1 or more, got {limit}")
    if limit is not None and to not in _CUT_BY_IMAGES:
        *most, last = _CUT_BY_IMAGES
        raise Refused(f"--images-per-shard is for {', '.join(most)} and {last}; {to} files are cut by themselves")
    if arguments.negatives < 0:
        raise Refused(f"--negatives must be 0 or more, got {arguments.negatives}")
    if limit is not None and _is_laid_out(arguments):
        raise Refused(f"--layout {arguments.layout} has one file a split: omit --images-per-shard")
    for name, formats in _ONLY_FOR.items():
        if getattr(arguments, name) is not None and to not in formats:
            raise Refused(f"--{name.replace('_', '-')} is for --to {' and '.join(formats)}; {to} does not have it")


def _boxes_per_task(arguments: argparse.Namespace) -> int | None:
    """Return the boxes above which an image is cut into crops; None for off. Raises Refused."""
    text = arguments.boxes_per_task
    if text is None:
        return BOXES_PER_TASK if arguments.to == "label-studio" else None
    if text == "off":
        return None
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise Refused(f"--boxes-per-task is a number of boxes, 1 or more, or off; got {text!r}")
    return int(text)


def _is_laid_out(arguments: argparse.Namespace) -> bool:
    return arguments.layout not in (None, "flat")


def _image_prefix(text: str | None) -> str | None:
    """Return what stands before `images/`. Raises Refused for addresses with a password, or a query but `?d=FOLDER`."""
    if text is None:
        return None
    address, mark, query = text.partition("?")
    is_open = storage.redact(address) == address and (not mark or _LOCAL_FILES.fullmatch(query))
    if not text.strip() or not is_open:
        raise Refused(
            "--image-prefix goes into every task, where all annotators see it: give an address without user, password, "
            "signature or any query but ?d=FOLDER, such as s3://bucket/folder or /data/local-files/?d=folder"
        )
    return text if text.endswith(("/", "=")) else f"{text}/"


def is_single_file(arguments: argparse.Namespace) -> bool:
    """One file, not a folder: a text format without splits, shards or images, and no other --output asked for."""
    extension = SINGLE_FILES.get(arguments.to)
    plain = not arguments.split and arguments.images_per_shard is None and arguments.images == "none"
    named = arguments.output is None or arguments.output.endswith(f".{extension}")
    return extension is not None and plain and named and not _is_laid_out(arguments)

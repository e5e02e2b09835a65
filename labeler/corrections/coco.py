"""COCO json, read back. It cannot tell a reviewed image without boxes from one that nobody opened: a person says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from labeler import storage
from labeler.corrections.reviewed import (
    COMPLETE,
    MAX_ELEMENT_BYTES,
    Intake,
    ReviewedBoxes,
    row_key,
)
from labeler.corrections.who_reviewed import Reviewers
from labeler.errors import Refused
from labeler.json_stream import JsonStream
from labeler.plain_json import NotPlainJson
from labeler.truth.columns import is_box, is_id, short


@dataclass
class _ReviewedDocument:
    """The part of the file that is held: its images and boxes, without what only others read."""

    images: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of categories
    boxes: dict[int, list[tuple[str, Any, int, Any]]] = field(
        default_factory=dict
    )  # by image: where, xywh, category, id


def read_coco(uri: str, intake: Intake, reviewers: Reviewers) -> None:
    """Read a file into `intake`; memory holds its images and boxes, but no masks.

    Raises:
        Refused: not such a file, one of another run, or nothing says which of its images are reviewed.
    """
    document = _ReviewedDocument()
    try:
        with storage.open_stream(uri) as stream:
            for key, value in JsonStream(stream, max_element_bytes=MAX_ELEMENT_BYTES).members():
                _take(document, key, value, intake)
    except NotPlainJson as error:
        raise Refused(f"corrections {intake.source} are not a COCO json: {error}") from None
    intake.refuse()
    if not document.images or not document.names:
        raise Refused(f"corrections {intake.source} are not a COCO json: no images or no categories in it")
    flags = {image_id: image.get("reviewed") for image_id, image in document.images.items()}
    if not reviewers.tells and not any(isinstance(flag, bool) for flag in flags.values()):
        raise Refused(
            f"corrections {intake.source}: COCO cannot tell a reviewed image without boxes from one that nobody "
            "opened; say --reviewed all|FILE, set `reviewed` of each image, or give Label Studio's JSON or "
            "X-AnyLabeling's files"
        )
    for image_id, image in document.images.items():
        row = row_key(image.get("labeler_row"))
        shown_row = f"{row[0]}/{row[1]}" if row else None
        if not reviewers.has(str(image.get("file_name")), shown_row) and flags[image_id] is not True:
            intake.unreviewed += 1
            continue
        _review(image, image_id, document, intake)


def _take(document: _ReviewedDocument, key: str, value: Any, intake: Intake) -> None:
    if key == "info" and isinstance(value, Mapping) and "labeler" in str(value.get("description")):
        intake.require_run(value.get("run_id"))
    if key not in ("images", "annotations", "categories") or not isinstance(value, Iterator):
        return
    for number, entry in enumerate(value):
        where = f"{key}[{number}]"
        if not isinstance(entry, Mapping):
            intake.problems.append(f"{where}: expected an object, got {short(entry)}")
        elif key == "annotations":
            _take_box(document, entry, where, intake)
        elif not is_id(entry.get("id")) or not isinstance(entry.get("file_name" if key == "images" else "name"), str):
            intake.problems.append(f"{where}: needs `id` and `{'file_name' if key == 'images' else 'name'}`")
        elif key == "images":
            if entry["id"] in document.images:
                intake.problems.append(f"{where}: image id {entry['id']} is used twice")
            document.images[entry["id"]] = entry
        else:
            document.names[entry["id"]] = entry["name"]


def _take_box(document: _ReviewedDocument, entry: Mapping[str, Any], where: str, intake: Intake) -> None:
    image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not is_id(image) or not is_id(category) or not is_box(box):
        intake.problems.append(f"{where}: needs `image_id`, `category_id` and `bbox` [x, y, width, height]")
        return
    if entry.get("iscrowd"):  # a region to ignore: nothing that a person says is there
        return
    attributes = entry.get("attributes")
    own = entry.get("labeler_box") or (attributes.get("labeler_box") if isinstance(attributes, Mapping) else None)
    if isinstance(attributes, Mapping) and attributes.get("rotation"):
        intake.problems.append(f"{where}: a rotated box; draw an upright box")
        return
    document.boxes.setdefault(image, []).append((where, box, category, own))


def _review(image: Mapping[str, Any], image_id: int, document: _ReviewedDocument, intake: Intake) -> None:
    boxes, where = ReviewedBoxes(row_key(image.get("labeler_row"))), f"image {image_id} ({image['file_name'][:80]})"
    mine = document.boxes.get(image_id, [])
    for place, (x, y, width, height), category, own in mine:
        if category not in document.names:
            intake.problems.append(f"{place}: category_id {category} is not a category of the file")
            continue
        boxes.add([x, y, x + width, y + height], document.names[category], own)
    sides = [image.get(name) for name in ("height", "width")]
    intake.images.append(
        boxes.image(
            where=where,
            name=image["file_name"],
            digest=image["digest"] if isinstance(image.get("digest"), str) else "",
            state=COMPLETE,
            size=(int(sides[0] or 0), int(sides[1] or 0)) if all(is_id(side) and side for side in sides) else None,
        )
    )

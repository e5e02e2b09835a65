"""Entries of an annotation file, checked one by one and kept as columns of plain numbers."""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from labeler.vocabulary import Category


@dataclass(frozen=True)
class ImageEntry:
    """One image of the file; height and width are 0 where not said."""

    id: int
    file_name: str
    height: int
    width: int
    negative: tuple[int, ...] = ()
    not_exhaustive: tuple[int, ...] = ()
    federated: bool = False


@dataclass
class Columns:
    """A collector of the entries of one file, and of every problem found.

    An area that the file does not give is NaN until the end.
    """

    masks: bool
    images: list[ImageEntry] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    category_ids: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    crowd: array[int] = field(default_factory=lambda: array("b"))
    ignore: array[int] = field(default_factory=lambda: array("b"))
    segmentations: list[Any] | None = None
    problems: list[str] = field(default_factory=list)
    annotation_ids: array[int] = field(default_factory=lambda: array("q"))
    _counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.segmentations = [] if self.masks else None

    def add(self, key: str, element: Any) -> None:
        """Take one element of the file's list `key`; other members than the three lists are skipped."""
        readers = {"images": self._add_image, "categories": self._add_category, "annotations": self._add_annotation}
        if key not in readers:
            return
        place = f"{key}[{self._counts[key]}]"
        self._counts[key] += 1
        if not isinstance(element, Mapping):
            self.problems.append(f"{place}: expected an object, got {type(element).__name__}")
            return
        readers[key](element, place)

    def _add_image(self, entry: Mapping[str, Any], place: str) -> None:
        id_, name = entry.get("id"), _file_name(entry)
        if not is_id(id_):
            self.problems.append(f"{place}: `id` must be a whole number, got {short(id_)}")
        elif not name:
            self.problems.append(f"{place}: no `file_name` or `coco_url`; images are matched by it")
        else:
            lists = [entry.get(side) for side in ("neg_category_ids", "not_exhaustive_category_ids")]
            if not all(ids is None or isinstance(ids, list | tuple) for ids in lists):
                self.problems.append(f"{place}: `neg_category_ids` and `not_exhaustive_category_ids` must be lists")
                return
            height, width = (_side(entry.get(side)) for side in ("height", "width"))
            negative, not_exhaustive = (tuple(i for i in ids or () if is_id(i)) for ids in lists)
            federated = lists[0] is not None
            self.images.append(ImageEntry(id_, name, height, width, negative, not_exhaustive, federated))

    def _add_category(self, entry: Mapping[str, Any], place: str) -> None:
        id_, name = entry.get("id"), entry.get("name")
        if not is_id(id_) or not isinstance(name, str) or not name:
            self.problems.append(f"{place}: needs `id`, a whole number, and `name`, got {short(id_)} and {short(name)}")
            return
        kinds = [value if isinstance(value := entry.get(k), str) else None for k in ("frequency", "supercategory")]
        self.categories.append(Category(id_, name, (), frequency=kinds[0], supercategory=kinds[1]))

    def _add_annotation(self, entry: Mapping[str, Any], place: str) -> None:
        image_id, category_id, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        area = entry.get("area")
        flags = [_flag(entry.get(name)) for name in ("iscrowd", "ignore")]
        if not is_id(image_id) or not is_id(category_id):
            got = f"{short(image_id)} and {short(category_id)}"
            self.problems.append(f"{place}: needs `image_id` and `category_id`, whole numbers, got {got}")
        elif not is_box(box):
            self.problems.append(f"{place}: `bbox` must be [x, y, width, height], no side negative, got {short(box)}")
        elif None in flags:
            got = f"{short(entry.get('iscrowd'))} and {short(entry.get('ignore'))}"
            self.problems.append(f"{place}: `iscrowd` and `ignore` must be 0 or 1, got {got}")
        elif self.segmentations is not None and not entry.get("segmentation"):
            self.problems.append(f"{place}: no `segmentation`; masks cannot be evaluated on this file")
        else:
            if is_id(id_ := entry.get("id")):
                self.annotation_ids.append(id_)
            self.image_ids.append(image_id)
            self.category_ids.append(category_id)
            self.boxes.extend(box)
            self.areas.append(area if is_number(area) and area >= 0 else math.nan)
            self.crowd.append(bool(flags[0]))
            self.ignore.append(bool(flags[1]))
            if self.segmentations is not None:
                self.segmentations.append(entry["segmentation"])


def _file_name(entry: Mapping[str, Any]) -> str:
    """`file_name`, else the last folder and name of `coco_url`, as LVIS v1 means its images."""
    if isinstance(name := entry.get("file_name"), str):
        return name
    url = entry.get("coco_url")
    try:
        return "/".join(urlsplit(url).path.split("/")[-2:]) if isinstance(url, str) else ""
    except ValueError:  # such as "http://["
        return ""


def _flag(value: Any) -> bool | None:
    """Return what a flag says (some write it as text, and "0" is true in Python); None if it is not 0 or 1."""
    if value is None or (isinstance(value, str) and value in ("0", "1")):
        return bool(value == "1")
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _side(value: Any) -> int:
    """Return an image's height or width; 0, for not known, if it is not a whole number that int32 holds."""
    return int(value) if is_number(value) and value == int(value) and 0 <= value < 2**31 else 0


def is_id(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number of at least 0 that fits into 64 bits, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number of a size that floats have, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_box(box: Any) -> TypeGuard[list[float]]:
    """[x, y, width, height], finite, with sides of at least 0."""
    is_four = isinstance(box, list | tuple) and len(box) == 4 and all(is_number(side) for side in box)
    return is_four and box[2] >= 0 and box[3] >= 0


def short(value: Any) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

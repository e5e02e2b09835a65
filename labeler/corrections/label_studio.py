"""Label Studio's JSON export, read back: tasks with annotations. JSON_MIN and COCO do not say what was reviewed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from labeler import storage
from labeler.corrections.reviewed import (
    COMPLETE,
    MAX_ELEMENT_BYTES,
    Intake,
    ReviewedBoxes,
    RowKey,
    are_numbers,
    row_key,
    shown_places,
)
from labeler.errors import Refused
from labeler.exports.label_studio_masks import decode
from labeler.json_stream import JsonStream
from labeler.labels.masks import Mask
from labeler.plain_json import NotPlainJson
from labeler.truth.columns import is_id, short

_MASK_END = "-mask"  # of the id of a mask's region
_LOCAL = re.compile(r"[?&]d=([^&#]*)")
_WITHOUT_SHAPE = frozenset(
    ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "ranker", "relation", "hypertext")
)
_BEYOND = 0.05  # percent that a side may lie outside the image by rounding
_SIDES = ("x", "y", "width", "height")


@dataclass(frozen=True)
class AnnotationChoice:
    """A choice among several people's annotations of one task.

    Attributes:
        annotator: the id of the one whose annotations count; None for any.
        newest: of several take the newest; they are refused otherwise.
    """

    annotator: int | None = None
    newest: bool = False


def read_label_studio(uri: str, intake: Intake, choice: AnnotationChoice) -> None:
    """Read a file of tasks into `intake`. Memory holds one task, and the results of reviewed ones.

    Raises:
        Refused: not such a file, or one of another run.
    """
    try:
        with storage.open_stream(uri) as stream:
            document = JsonStream(stream, max_element_bytes=MAX_ELEMENT_BYTES)
            if not document.is_list():
                raise _not_tasks(intake.source, "not a list of tasks")
            for number, task in enumerate(document.elements()):
                _read_task(task, f"task {number}", intake, choice)
    except NotPlainJson as error:
        raise _not_tasks(intake.source, f"not JSON: {error}") from None


def _not_tasks(source: str, why: str) -> Refused:
    return Refused(
        f"corrections {source} are {why}; give the file that Label Studio's export writes as JSON (its JSON-MIN, COCO, "
        "YOLO, VOC and CSV cannot tell a reviewed image without boxes from one that nobody opened)"
    )


def _read_task(task: Any, where: str, intake: Intake, choice: AnnotationChoice) -> None:
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        raise _not_tasks(intake.source, f"not tasks ({where} has no `data`)")
    data, annotations = task["data"], task.get("annotations") or []
    intake.require_run(data.get("labeler_run"))
    if not isinstance(annotations, list) or not all(isinstance(each, Mapping) for each in annotations):
        intake.problems.append(f"{where}: `annotations` must be a list of objects")
        return
    live = [each for each in annotations if not each.get("was_cancelled")]
    if not live:
        intake.skipped += bool(annotations)
        intake.unreviewed += not annotations
        return
    where = f"{where} ({data.get('labeler_row') or short(data.get('image'))})"
    chosen = _choose(live, where, intake, choice)
    if chosen is None:
        return
    result = chosen.get("result")
    if not isinstance(result, list) or not all(isinstance(region, Mapping) for region in result):
        intake.problems.append(f"{where}: `result` must be a list of objects")
        return
    row = row_key(data.get("labeler_row"))
    reader = _Regions(intake, where, row)
    for region in result:
        reader.add(region)
    boxes = reader.boxes()
    intake.images.append(
        boxes.image(
            where=where,
            name=_name(data.get("image")),
            digest=data["labeler_digest"] if isinstance(data.get("labeler_digest"), str) else "",
            state=COMPLETE,
            size=reader.size,
            shown=shown_places(data.get("labeler_shown")),
            asked=intake.asked(data.get("labeler_boxes"), where),
            crop=intake.crop(data.get("labeler_crop"), where),
        )
    )


def _choose(
    live: list[Mapping[str, Any]], where: str, intake: Intake, choice: AnnotationChoice
) -> Mapping[str, Any] | None:
    """Return the annotation that counts; None if nobody's does, or the problem was noted."""
    if choice.annotator is not None:
        live = [each for each in live if _annotator(each) == choice.annotator]
        if not live:
            intake.unreviewed += 1
            return None
    truths = [each for each in live if each.get("ground_truth") is True]
    live = truths if len(truths) == 1 else live
    if len(live) > 1 and choice.newest:
        return max(live, key=_age)
    if len(live) > 1:
        people = ", ".join(sorted({str(_annotator(each)) for each in live}))
        intake.problems.append(
            f"{where}: {len(live)} annotations, by annotators {people}; choose with --annotator N or --several newest"
        )
        return None
    only: Mapping[str, Any] = live[0]
    return only


def _age(annotation: Mapping[str, Any]) -> tuple[str, int]:
    """Larger for a newer annotation: times are ISO 8601, all in one zone, and ids rise."""
    number = annotation.get("id")
    return str(annotation.get("updated_at") or annotation.get("created_at")), number if is_id(number) else -1


def _annotator(annotation: Mapping[str, Any]) -> int | None:
    """`completed_by` is a number, or an object with it."""
    by = annotation.get("completed_by")
    number = by.get("id") if isinstance(by, Mapping) else by
    return number if is_id(number) else None


def _name(image: Any) -> str:
    """Return the file name in an address; local files have it in the query."""
    if not isinstance(image, str):
        return ""
    local = _LOCAL.search(image)
    try:
        return unquote(local[1] if local else urlsplit(image).path)
    except ValueError:
        return ""


class _Regions:
    """The regions of one annotation: boxes, and masks that belong to them by id."""

    def __init__(self, intake: Intake, where: str, row: RowKey | None) -> None:
        self._intake, self._where, self._row = intake, where, row
        self._boxes: list[tuple[str, list[float], str]] = []  # id without the editor's ending ("" without one)
        self._masks: list[tuple[str, Mask, str]] = []  # with the id of the box that it belongs to
        self.size: tuple[int, int] | None = None

    def add(self, region: Mapping[str, Any]) -> None:
        kind, value, id_ = region.get("type"), region.get("value"), str(region.get("id", ""))
        if kind in _WITHOUT_SHAPE:
            return
        where = f"{self._where}, region {id_[:40]}"
        size = region.get("original_height"), region.get("original_width")
        if not isinstance(value, Mapping) or not isinstance(kind, str):
            self._intake.problems.append(f"{where}: needs `type` and `value`")
            return
        if not all(is_id(side) and side for side in size) or (self.size is not None and self.size != size):
            self._intake.problems.append(f"{where}: needs the `original_width` and `original_height` of its image")
            return
        self.size = int(size[0] or 0), int(size[1] or 0)
        if region.get("image_rotation") not in (None, 0):
            self._intake.problems.append(f"{where}: its image was turned in the tool; turn it back and submit again")
            return
        names = value.get(kind)
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            self._intake.problems.append(f"{where}: needs one label of a control for boxes, got {kind} {short(names)}")
            return
        base = id_.partition("#")[0]
        if kind == "brushlabels":
            if (mask := self._mask(value, where)) is not None:
                self._masks.append((base.removesuffix(_MASK_END), mask, names[0]))
        elif (corners := self._corners(kind, value, where)) is not None:
            self._boxes.append((base, corners, names[0]))

    def _corners(self, kind: str, value: Mapping[str, Any], where: str) -> list[float] | None:
        """Return xyxy in pixels; None where the problem was noted."""
        assert self.size is not None
        height, width = self.size
        if kind == "polygonlabels":
            points = value.get("points")
            if not isinstance(points, list) or len(points) < 3 or not all(are_numbers(point, 2) for point in points):
                self._intake.problems.append(f"{where}: a polygon needs three `points` or more")
                return None
            return self._intake.upright(np.array(points, float) / 100 * (width, height), where, "a polygon")
        sides = [value.get(name) for name in _SIDES]
        if kind != "rectanglelabels" or not are_numbers(sides, 4):
            self._intake.problems.append(
                f"{where}: {kind} is not a box; draw rectangles" if kind != "rectanglelabels" else
                f"{where}: x, y, width and height must be numbers, got {short(sides)}"
            )  # fmt: skip
            return None
        x, y, w, h = (float(side) for side in sides if side is not None)
        rotation = value.get("rotation") or 0
        if not are_numbers([rotation]):
            self._intake.problems.append(f"{where}: `rotation` must be a number")
            return None
        left, top, across, down = x / 100 * width, y / 100 * height, w / 100 * width, h / 100 * height
        if rotation % 360:
            turn = math.radians(rotation)
            right, lower = np.array([math.cos(turn), math.sin(turn)]), np.array([-math.sin(turn), math.cos(turn)])
            start = np.array([left, top])
            corners = [start, start + across * right, start + across * right + down * lower, start + down * lower]
            return self._intake.upright(corners, where, "a rotated box")
        if min(x, y, w, h) < -_BEYOND or max(x + w, y + h) > 100 + _BEYOND:
            self._intake.problems.append(
                f"{where}: reaches beyond the image (x {x:g}, y {y:g}, width {w:g}, height {h:g} percent); draw it "
                "inside"
            )
            return None
        return [left, top, left + across, top + down]

    def _mask(self, value: Mapping[str, Any], where: str) -> Mask | None:
        assert self.size is not None
        try:
            return decode(value.get("rle"), *self.size)
        except ValueError as error:
            self._intake.problems.append(f"{where}: its mask cannot be read ({error}); draw it again")
            return None

    def boxes(self) -> ReviewedBoxes:
        """Return all boxes; a mask without one is a box around it."""
        found, left = ReviewedBoxes(self._row), list(self._masks)
        for id_, corners, label in self._boxes:
            mine = next((one for one in left if id_ and one[0] == id_), None)
            left = [one for one in left if one is not mine]
            found.add(corners, label, id_, mine[1] if mine else None)
        for id_, alone, label in left:
            if (around := alone.bounds) is None:
                self._intake.problems.append(f"{self._where}, region {id_[:40]}: an empty mask; remove or draw it")
            else:
                found.add(list(around), label, id_, alone)
        return found

"""Label Studio's JSON export, or tasks with predictions, as labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from labeler import storage
from labeler.exports.crowded import CorrectedCrop, TaskCrop, merge_crops
from labeler.imports.digesting import open_json
from labeler.imports.labels import ImportedLabels, Labels, add_named
from labeler.shards.names import IMAGE_EXTENSIONS
from labeler.truth.columns import is_number, short

_SIDES = ("x", "y", "width", "height")
_UPLOAD = re.compile(r"^data/upload/\d+/([0-9a-f]{8}-)?")  # Label Studio puts a hash before names of uploads
_LOCAL = "/data/local-files/"


def read_label_studio(uri: str) -> Labels:
    """Rectangles of people's annotations, or of the last prediction where nobody has annotated.

    Tasks without either, and those that were skipped, are images that the file says nothing of. Crops of an image,
    which `labeler export --boxes-per-task` makes, are put together.

    Raises:
        Refused: it is not such a list, several people have annotated one task, or a crop is missing.
        StorageError: it cannot be read.
    """
    shown = storage.redact(uri)
    tasks = _Tasks()
    with open_json(uri, is_list=True, advice="export the project from Label Studio as JSON") as (document, digesting):
        for number, task in enumerate(document.elements()):
            tasks.add(task, f"[{number}]")
    return tasks.finish().labels(shown, digesting.digest, relative=True)


@dataclass(frozen=True)
class _Region:
    """A rectangle: (left, top, width, height) in parts of the image, and the id that it was handed out with."""

    label: str
    sides: list[float]
    score: Any
    id_: str | None


class _Tasks:
    def __init__(self) -> None:
        self._entries = ImportedLabels()
        self._ids: dict[str, int] = {}
        self._crops: dict[str, list[tuple[TaskCrop, str, list[_Region]]]] = {}
        self._of_crops: dict[str, tuple[str, Any]] = {}  # name and digest of each image that came as crops

    def add(self, task: Any, place: str) -> None:
        problems, data = self._entries.problems, task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping) or not {"annotations", "predictions"} & task.keys():
            problems.append(
                f"{place}: not a task with `data` and `annotations` or `predictions`; JSON_MIN does not say which "
                "images were annotated"
            )
            return
        people = _objects(task, "annotations")
        name, done = _name_of(data), [each for each in people if not each.get("was_cancelled")]
        if not name:
            problems.append(f"{place}: no address of an image in `data`")
        elif len(done) > 1:
            problems.append(f"{place}: {len(done)} people have annotated {name!a}; keep one annotation of each task")
        elif people and not done:
            return  # a person looked and skipped it: the prediction is not an answer
        elif answers := done or _objects(task, "predictions")[-1:]:
            self._add_image(name, data, _objects(answers[0], "result"), place)

    def _add_image(self, name: str, data: Mapping[str, Any], result: list[Mapping[str, Any]], place: str) -> None:
        handed_out = _handed_out(data)
        found = [self._region(region, f"{place}, region {region.get('id')}", handed_out) for region in result]
        regions = [region for region in found if region is not None]
        if data.get("labeler_crop") is None:
            self._add_whole(name, data.get("labeler_digest"), regions)
            return
        try:
            crop = TaskCrop.of_json(data["labeler_crop"])
        except ValueError as error:
            self._entries.problems.append(f"{place}: {error}")
            return
        image = f"{data.get('labeler_run')} {data.get('labeler_row') or name.replace(crop.suffix, '')}"
        self._of_crops.setdefault(image, (name.replace(crop.suffix, ""), data.get("labeler_digest")))
        self._crops.setdefault(image, []).append((crop, place, regions))

    def _add_whole(self, name: str, digest: Any, regions: Sequence[_Region]) -> None:
        number = len(self._entries.images)
        self._entries.add("images", {"id": number, "file_name": name, "digest": digest or None})
        for region in regions:
            id_ = self._ids.setdefault(region.label, len(self._ids) + 1)
            about = {"image_id": number, "category_id": id_, "bbox": region.sides, "score": region.score}
            self._entries.add("annotations", about)

    def _region(self, region: Mapping[str, Any], place: str, handed_out: Set[str]) -> _Region | None:
        value, kind = region.get("value"), region.get("type")
        if kind != "rectanglelabels" or not isinstance(value, Mapping):
            self._entries.left_out[f"regions of type {short(kind)}"] += 1
            return None
        names, sides = value.get("rectanglelabels"), [value.get(side) for side in _SIDES]
        numbers = [side / 100 for side in sides if is_number(side)]
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            self._entries.problems.append(f"{place}: expected one label, got {short(names)}")
        elif len(numbers) < len(sides):
            self._entries.problems.append(f"{place}: x, y, width and height must be numbers, got {short(sides)}")
        elif value.get("rotation"):
            self._entries.left_out["rotated rectangles"] += 1
        else:
            id_ = str(region.get("id"))
            return _Region(names[0], numbers, region.get("score"), id_ if id_ in handed_out else None)
        return None

    def _merge(self, image: str, parts: Sequence[tuple[TaskCrop, str, list[_Region]]]) -> None:
        """Add an image of its crops; note a problem where one of them is missing."""
        name, digest = self._of_crops[image]
        try:
            merged = merge_crops([_corrected(crop, regions) for crop, _, regions in parts])
        except ValueError as error:
            self._entries.problems.append(f"{parts[0][1]}: {name!a}: {error}")
            return
        if merged.missing:
            self._entries.problems.append(
                f"{parts[0][1]}: {name!a} was cut into {parts[0][0].count} crops, and {len(merged.missing)} of them "
                "are not in the file or have no labels; add their tasks, or remove all of this image"
            )
            return
        # The cores tile the image, so that they give its size.
        width = max(crop.core[2] for crop, _, _ in parts)
        height = max(crop.core[3] for crop, _, _ in parts)
        corners = merged.boxes / np.array([width, height, width, height])
        sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        regions = [parts[part][2][place] for part, place in merged.sources]
        self._add_whole(name, digest, [replace(one, sides=four) for one, four in zip(regions, sides, strict=True)])

    def finish(self) -> ImportedLabels:
        for image, parts in self._crops.items():
            self._merge(image, parts)
        add_named(self._entries, list(self._ids))
        return self._entries


def _objects(of: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects of a list; what is not an object, or not a list, holds no label."""
    found = of.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _handed_out(data: Mapping[str, Any]) -> set[str]:
    """The ids of the regions that `labeler export` put into a task."""
    row, shown = data.get("labeler_row"), data.get("labeler_shown")
    if not isinstance(row, str) or not isinstance(shown, str):
        return set()
    return {f"{row.replace('/', '-')}-{place}" for place in shown.split()}


def _corrected(crop: TaskCrop, regions: Sequence[_Region]) -> CorrectedCrop:
    parts = np.array([region.sides for region in regions], np.float64).reshape(-1, 4)
    corners = np.concatenate([parts[:, :2], parts[:, :2] + parts[:, 2:]], 1)
    ids = [region.id_ for region in regions]  # a copy of a box has the id of the first; it counts as drawn
    once = [None if id_ in ids[:place] else id_ for place, id_ in enumerate(ids)]
    return CorrectedCrop(crop, corners * [crop.width, crop.height, crop.width, crop.height], once)


def _name_of(data: Mapping[str, Any]) -> str:
    """The path of a task's image, without host, bucket or upload folder: `image`, else the first with an extension."""
    image = data.get("image")
    if isinstance(image, str) and (path := _path_of(image)):
        return path
    own = (value for key, value in data.items() if isinstance(value, str) and not key.startswith("labeler_"))
    return next((path for value in own if (path := _path_of(value)).rpartition(".")[2].lower() in IMAGE_EXTENSIONS), "")


def _path_of(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    path = parts.query.removeprefix("d=") if parts.path == _LOCAL else parts.path
    return _UPLOAD.sub("", unquote(path).lstrip("/"))

"""Label Studio's JSON export, or tasks with predictions, as labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from labeler import storage
from labeler.imports.digesting import open_json
from labeler.imports.labels import Entries, Labels, add_named
from labeler.truth.columns import is_number, short

_SIDES = ("x", "y", "width", "height")
_UPLOAD = re.compile(r"^data/upload/\d+/([0-9a-f]{8}-)?")  # Label Studio puts a hash before names of uploads
_LOCAL = "/data/local-files/"


def read_label_studio(uri: str) -> Labels:
    """Rectangles of people's annotations, or of the last prediction where nobody has annotated.

    Tasks without either, and those that were skipped, are images that the file says nothing of.

    Raises:
        Refused: it is not such a list, or several people have annotated one task.
        StorageError: it cannot be read.
    """
    shown = storage.redact(uri)
    tasks = _Tasks()
    with open_json(uri, is_list=True, advice="export the project from Label Studio as JSON") as (document, digesting):
        for number, task in enumerate(document.elements()):
            tasks.add(task, f"[{number}]")
    return tasks.finish().labels(shown, digesting.digest, relative=True)


class _Tasks:
    def __init__(self) -> None:
        self._entries = Entries()
        self._ids: dict[str, int] = {}

    def add(self, task: Any, place: str) -> None:
        problems, data = self._entries.problems, task.get("data") if isinstance(task, Mapping) else None
        if not isinstance(data, Mapping) or not {"annotations", "predictions"} & task.keys():
            problems.append(
                f"{place}: not a task with `data` and `annotations` or `predictions`; JSON_MIN does not say which "
                "images were annotated"
            )
            return
        name, done = _name_of(data), [a for a in _objects(task, "annotations") if not a.get("was_cancelled")]
        if not name:
            problems.append(f"{place}: no address of an image in `data`")
        elif len(done) > 1:
            problems.append(f"{place}: {len(done)} people have annotated {name!a}; keep one annotation of each task")
        elif answers := done or _objects(task, "predictions")[-1:]:
            number = len(self._entries.images)
            self._entries.add("images", {"id": number, "file_name": name, "digest": data.get("labeler_digest") or None})
            for region in _objects(answers[0], "result"):
                self._add_region(number, region, f"{place}, region {region.get('id')}")

    def _add_region(self, image: int, region: Mapping[str, Any], place: str) -> None:
        value, kind = region.get("value"), region.get("type")
        if kind != "rectanglelabels" or not isinstance(value, Mapping):
            self._entries.left_out[f"regions of type {short(kind)}"] += 1
            return
        names, sides = value.get("rectanglelabels"), [value.get(side) for side in _SIDES]
        numbers = [side / 100 for side in sides if is_number(side)]
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            self._entries.problems.append(f"{place}: expected one label, got {short(names)}")
        elif len(numbers) < len(sides):
            self._entries.problems.append(f"{place}: x, y, width and height must be numbers, got {short(sides)}")
        elif value.get("rotation"):
            self._entries.left_out["rotated rectangles"] += 1
        else:
            id_ = self._ids.setdefault(names[0], len(self._ids) + 1)
            about = {"image_id": image, "category_id": id_, "bbox": numbers, "score": region.get("score")}
            self._entries.add("annotations", about)

    def finish(self) -> Entries:
        add_named(self._entries, list(self._ids))
        return self._entries


def _objects(of: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects of a list; what is not an object, or not a list, holds no label."""
    found = of.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _name_of(data: Mapping[str, Any]) -> str:
    """The path of a task's image: of the first address in its data, without host, bucket or upload folder."""
    return next((name for value in _addresses(data) if (name := _path_of(value))), "")


def _addresses(data: Mapping[str, Any]) -> Iterator[str]:
    yield from (value for key, value in data.items() if isinstance(value, str) and not key.startswith("labeler_"))


def _path_of(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    path = parts.query.removeprefix("d=") if parts.path == _LOCAL else parts.path
    return _UPLOAD.sub("", unquote(path).lstrip("/")) if "." in path else ""

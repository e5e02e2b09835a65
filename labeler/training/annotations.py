"""Ground truth for training: a COCO file with its images, or the labels of a run; everything wrong is named."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.file_names import NameIndex, last_part
from labeler.records import detections_of
from labeler.runs import Run, open_run, read_snapshot, read_tables
from labeler.shards.names import is_image
from labeler.shards.tar_members import walk
from labeler.training.stored import Location, Record
from labeler.vocabulary import Vocabulary

OUTSIDE_PX = 1.0  # boxes may reach so far out of the image: rounding, and COCO's own files do
_MOST_PROBLEMS = 20  # that are listed
_LABELED = ("labeled", "empty")

log = logging.getLogger(__name__)


def read_coco(annotations_uri: str, images_uri: str, vocabulary: Vocabulary) -> list[Record]:
    """The images of a COCO or LVIS file with their boxes; crowds are left out.

    Args:
        images_uri: a folder of images, a folder of WebDataset tars, or one tar. An image is found by its `file_name`
            ("shard.tar/member.jpg" for tars), else by the last part of it where only one image is called so.
        vocabulary: every category that boxes may have.

    Raises:
        Refused: a box outside its image or without area, an unknown category, an annotation without an image, an image
            that is not there; all at once.
    """
    shown = storage.redact(annotations_uri)
    data = _read_json(annotations_uri, shown)
    problems: list[str] = []
    listed = {image["id"]: image for image in data["images"]}
    boxes: dict[Any, list[tuple[list[float], int]]] = defaultdict(list)
    for annotation in data["annotations"]:
        problem = _find_problem(annotation, listed, vocabulary)
        if problem is not None:
            problems.append(f"annotation {annotation.get('id', '?')}: {problem}")
        elif not annotation.get("iscrowd"):
            x, y, width, height = annotation["bbox"]
            boxes[annotation["image_id"]].append(([x, y, x + width, y + height], annotation["category_id"]))
    places = _find_images(images_uri) if listed else _Places({})
    records = []
    for image_id, image in listed.items():
        found = places.find(image["file_name"])
        if len(found) == 1:
            records.append(_record(image, found[0][1], boxes[image_id]))
            continue
        where, names = storage.redact(images_uri), " or ".join(ascii(name) for name, _ in found)
        lacking = f"could be {names} in {where}" if found else f"no {image['file_name']} in {where}"
        problems.append(f"image {image_id}: {lacking}")
    if not listed:
        problems.append("no image in it")
    if problems:
        raise _refuse(shown, problems)
    return records


def read_run(run_uri: str, *, score_threshold: float) -> tuple[list[Record], Vocabulary]:
    """The labeled and empty images of a run with their detections of at least the threshold, and its vocabulary.

    Raises:
        Refused: not a run, nothing labeled yet, or its images are inside Parquet files.
    """
    shown = storage.redact(run_uri)
    run = open_run(run_uri)
    if run is None:
        raise Refused(f"data.run: {shown} holds no run (no run.json); give the output folder of `labeler label`")
    run.s3_rules().apply()
    records = _run_records(run, score_threshold, shown)
    if not records:
        raise Refused(f"data.run: {shown} has no labeled image; label it first")
    vocabulary = run.vocabulary()
    wanted = tuple(category for category in vocabulary.categories if not category.negative)
    return records, Vocabulary(vocabulary.name, wanted)


def _run_records(run: Run, score_threshold: float, shown: str) -> list[Record]:
    plan, progress = read_snapshot(run)
    formats = {planned.shard_id: planned.shard.format for planned in plan}
    if "parquet" in formats.values():
        raise Refused(
            f"data.run: {shown} labeled images inside Parquet files; only tars and image files can be read back"
        )
    columns = ("image_key", "shard_id", "uri", "offset", "length", "width", "height", "status", "detections")
    records = []
    for table in read_tables(plan, progress, columns=columns):
        rows = table.drop_columns(["detections"]).to_pylist()
        for row, found in zip(rows, detections_of(table, masks=False), strict=True):
            if row["status"] not in _LABELED:
                continue
            kept = found.above(score_threshold)
            whole = formats[row["shard_id"]] == "images"
            location = Location(row["uri"]) if whole else Location(row["uri"], row["offset"], row["length"])
            ids = kept.category_ids.astype(np.int64)
            records.append(Record(row["image_key"], location, row["width"], row["height"], kept.boxes, ids))
    return records


def _read_json(uri: str, shown: str) -> dict[str, Any]:
    try:
        data = json.loads(storage.read_bytes(uri))
    except StorageError as error:
        raise Refused(f"annotations {shown}: {error}") from None
    except ValueError as error:
        raise Refused(f"annotations {shown}: no JSON: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise Refused(f"annotations {shown}: no COCO file, it needs lists called images, annotations and categories")
    for image in data["images"]:
        missing = [k for k in ("id", "file_name", "width", "height") if k not in image]
        if missing:
            raise Refused(f"annotations {shown}: image {image.get('id', '?')} has no {', '.join(missing)}")
    return data


def _find_problem(annotation: Mapping[str, Any], listed: Mapping[Any, Any], vocabulary: Vocabulary) -> str | None:
    image = listed.get(annotation.get("image_id"))
    if image is None:
        return f"its image {annotation.get('image_id')} is not in the file"
    category_id = annotation.get("category_id")
    if category_id not in vocabulary.by_id:
        return f"category {category_id} is unknown"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not np.isfinite(np.asarray(box, np.float64)).all():
        return f"its bbox is [x, y, width, height], got {box}"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return f"its box {box} has no area"
    if min(x, y) < -OUTSIDE_PX or x + width > image["width"] + OUTSIDE_PX or y + height > image["height"] + OUTSIDE_PX:
        return f"its box {box} is outside image {image['id']} ({image['width']} x {image['height']})"
    return None


def _record(image: Mapping[str, Any], location: Location, boxes: list[tuple[list[float], int]]) -> Record:
    corners = np.asarray([box for box, _ in boxes], np.float32).reshape(-1, 4)
    limits = np.asarray([image["width"], image["height"]] * 2, np.float32)
    negatives = image.get("neg_category_ids")  # LVIS: the only categories known to be absent
    return Record(
        image["file_name"],
        location,
        int(image["width"]),
        int(image["height"]),
        np.clip(corners, 0, limits),
        np.asarray([id_ for _, id_ in boxes], np.int64),
        None if negatives is None else tuple(negatives),
    )


class _Places:
    """Locations of images by their names, in any spelling, and by the last part of it where that is unique."""

    def __init__(self, found: Mapping[str, Location]) -> None:
        self._found = list(found.items())
        self._whole, self._last = NameIndex(found), NameIndex(map(last_part, found))

    def find(self, name: str) -> list[tuple[str, Location]]:
        """Return (name, location) of the image; of several where their names are meant alike, and none is the same."""
        places = self._whole.find(name)
        last = [] if places else self._last.find(last_part(name))
        return [self._found[place] for place in (places or (last if len(last) == 1 else []))]


def _find_images(uri: str) -> _Places:
    single = storage.head(uri) if uri.endswith(".tar") else None
    objects = [single] if single else list(storage.list_objects(uri, on_skipped=_warn))
    found: dict[str, Location] = {}
    for info in objects:
        if info.uri.endswith(".tar"):
            with storage.open_stream(info.uri) as stream:
                for member in walk(stream):
                    if member.state == "file" and is_image(member.name):
                        name = f"{storage.basename(info.uri)}/{member.name}"
                        found[name] = Location(info.uri, member.offset, member.length)
        elif is_image(info.uri):
            found[info.uri.removeprefix(uri).lstrip("/")] = Location(info.uri)
    return _Places(found)


def _warn(uri: str, reason: str) -> None:
    log.warning("skipped %s: %s", storage.printable(storage.redact(uri)), reason)


def _refuse(shown: str, problems: list[str]) -> Refused:
    if len(problems) == 1:
        return Refused(f"annotations {shown}: {problems[0]}")
    listed = problems[:_MOST_PROBLEMS]
    if len(problems) > len(listed):
        listed.append(f"... and {len(problems) - len(listed)} more")
    return Refused(f"annotations {shown}: {len(problems)} problems", listed)

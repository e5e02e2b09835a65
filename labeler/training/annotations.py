"""Ground ground truth for training: a COCO file, read and checked as `labeler evaluate` does, and the images that it
names.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labeler import storage
from labeler.errors import Refused, StorageError
from labeler.file_names import NameIndex, comparable, last_part
from labeler.shards.names import is_image
from labeler.shards.tar_members import walk
from labeler.training.categories import NONE, listed, match_by_name
from labeler.training.stored_images import Location, Record
from labeler.truth.alignment import require_distinct_names
from labeler.truth.ground_truth import GroundTruth, read_ground_truth, refuse
from labeler.vocabulary import Vocabulary

OUTSIDE_PX = 1.0  # boxes may reach so far out of the image: rounding, and COCO's own files do
_ADVICE = "partial=true (--partial) trains on the rest"

log = logging.getLogger(__name__)


def read_coco(
    annotations_uri: str,
    images_uri: str,
    vocabulary: Vocabulary,
    *,
    partial: bool = False,
    only_known: bool = False,
) -> list[Record]:
    """Return the images of a COCO or LVIS file with their boxes, by rising image id; crowds are excluded.

    Args:
        images_uri: a folder of images, a folder of WebDataset tars, or one tar; see `locate` for which image is whose.
        vocabulary: what boxes may be, matched by name: the records have its ids.
        partial: omit what cannot be trained on (unknown categories, boxes without area or outside of their image,
            images that are missing or of unknown size), and log how much that is.
        only_known: omit categories that the vocabulary lacks, and log their names.

    Raises:
        Refused: if the file is not valid, or has something of what `partial` excludes; all at once.
    """
    shown = storage.redact(annotations_uri)
    try:
        truth = read_ground_truth(annotations_uri)
    except StorageError as error:
        raise Refused(str(error)) from None
    require_distinct_names(truth)
    source = f"annotations {shown}"
    objects = np.bincount(truth.category[~truth.crowd], minlength=len(truth.categories))
    ids, lacking = match_by_name(truth.categories, objects, vocabulary, source=source, partial=partial or only_known)
    flaws = _Flaws()
    for name in lacking:
        flaws.count("category that the vocabulary lacks", f'"{name}"')
    usable = _usable_boxes(truth, flaws) & (ids[truth.category] != NONE) & ~truth.crowd
    try:
        places = locate(truth.file_names, find_images(images_uri))
    except StorageError as error:
        raise Refused(f"images {storage.redact(images_uri)}: {error}") from None
    records = list(_records(truth, ids, usable, places, flaws, storage.redact(images_uri)))
    if flaws.problems and not partial:
        raise refuse(source, flaws.problems, advice=_ADVICE)
    flaws.say(source)
    if not records:
        raise Refused(f"{source}: none of its images can be used")
    return records


@dataclass
class _Flaws:
    """Annotations that cannot be trained on: one line each, and a count per kind."""

    problems: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)

    def count(self, kind: str, name: str) -> None:
        """Something that is excluded without being a problem."""
        self.kinds[kind] += 1
        self.names.append(name)

    def add(self, kind: str, problem: str) -> None:
        self.kinds[kind] += 1
        self.problems.append(problem)

    def say(self, source: str) -> None:
        if self.kinds:
            found = ", ".join(f"{count:,} x {kind}" for kind, count in self.kinds.items())
            named = f" ({listed(self.names)})" if self.names else ""
            log.warning("%s: excluded: %s%s", source, found, storage.printable(named))


def _usable_boxes(truth: GroundTruth, flaws: _Flaws) -> npt.NDArray[np.bool_]:
    """Return which boxes have an area inside their image; crowds are never a flaw, as nothing is trained on them."""
    low, size = truth.boxes_xywh[:, :2], truth.boxes_xywh[:, 2:]
    limits = truth.sizes[truth.image][:, ::-1]  # width, height
    flat = np.asarray((size <= 0).any(1))
    known = np.asarray((limits > 0).all(1))  # images without a size are not checked here
    outside = known & np.asarray(((low < -OUTSIDE_PX) | (low + size > limits + OUTSIDE_PX)).any(1))
    for row in np.flatnonzero((flat | outside) & ~truth.crowd).tolist():
        box, (height, width) = truth.boxes_xywh[row].tolist(), truth.sizes[truth.image[row]].tolist()
        where = f'image {truth.image_ids[truth.image[row]]} "{truth.file_names[truth.image[row]]}"'
        if flat[row]:
            flaws.add("box without area", f"annotations[{row}]: its box {box} of {where} has no area")
        else:
            flaws.add(
                "box outside its image", f"annotations[{row}]: its box {box} is outside {where}, {width} x {height}"
            )
    usable: npt.NDArray[np.bool_] = ~(flat | outside)
    return usable


def _records(
    truth: GroundTruth,
    ids: npt.NDArray[np.int64],
    usable: npt.NDArray[np.bool_],
    places: list[Location | tuple[str, ...]],
    flaws: _Flaws,
    images: str,
) -> Iterator[Record]:
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(truth.image[rows], kind="stable")]
    bounds = np.searchsorted(truth.image[rows], np.arange(len(truth.file_names) + 1))
    negatives = _negatives(truth, ids)
    for place, name in enumerate(truth.file_names):
        location, (height, width) = places[place], truth.sizes[place].tolist()
        who = f'image {truth.image_ids[place]} "{name}"'
        if isinstance(location, tuple):
            could = " or ".join(map(ascii, location))
            lacking = f"image {truth.image_ids[place]}: could be {could}" if location else f"{who} is not"
            flaws.add("missing image", f"{lacking} in {images}")
        elif not height or not width:
            flaws.add("image without a size", f"{who} has no `width` and `height` above 0")
        else:
            mine = rows[bounds[place] : bounds[place + 1]]
            low, size = truth.boxes_xywh[mine, :2], truth.boxes_xywh[mine, 2:]
            corners = np.clip(np.concatenate([low, low + size], 1), 0, [width, height] * 2).astype(np.float32)
            absent = None if negatives is None else negatives[place]
            yield Record(name, location, width, height, corners, ids[truth.category[mine]], absent)


def _negatives(truth: GroundTruth, ids: npt.NDArray[np.int64]) -> list[tuple[int, ...]] | None:
    """Return the ids known to be absent from each image; None if every category without a box is."""
    if truth.federated is None:
        return None
    found: list[list[int]] = [[] for _ in truth.file_names]
    for image, category in zip(*np.divmod(truth.federated.negative, len(truth.categories)), strict=True):
        if ids[category] != NONE:
            found[image].append(int(ids[category]))
    return [tuple(absent) for absent in found]


def find_images(uri: str) -> dict[str, Location]:
    """Return every image under a folder, or in a tar, by its path below it ("a/b.jpg", "a/shard.tar/member.jpg")."""
    single = storage.head(uri) if uri.endswith(".tar") else None
    objects = [single] if single else list(storage.list_objects(uri, on_skipped=_warn))
    found: dict[str, Location] = {}
    for info in objects:
        path = storage.basename(info.uri) if single else info.uri.removeprefix(uri).lstrip("/")
        if info.uri.endswith(".tar"):
            with storage.open_stream(info.uri) as stream:
                for member in walk(stream):
                    if member.state == "file" and is_image(member.name):
                        found.setdefault(f"{path}/{member.name}", Location(info.uri, member.offset, member.length))
        elif is_image(info.uri):
            found[path] = Location(info.uri)
    return found


def locate(names: Sequence[str], found: Mapping[str, Location]) -> list[Location | tuple[str, ...]]:
    """Return where the image of each name is; or else the stored names that it could be, () if there are none.

    An image is known by its whole path, in any spelling; else by the end of it ("shard.tar/member.jpg"); else by its
    last part, if no two names and no two stored images end so. An image that one name has is not given to another:
    two folders often have images of the same last name, and a missing one must not become its namesake.
    """
    places: list[Location | tuple[str, ...]] = [()] * len(names)
    taken: set[str] = set()

    def take(row: int, paths: Sequence[str]) -> None:
        if len(paths) == 1 and paths[0] not in taken:
            taken.add(paths[0])
            places[row] = found[paths[0]]
        elif len(paths) > 1:
            places[row] = tuple(paths)

    stored, whole = list(found), NameIndex(found)
    for row in sorted(range(len(names)), key=lambda row: names[row] not in whole):  # the very same spelling first
        take(row, [stored[place] for place in whole.find(names[row])])
    ends, wanted = _by_end(stored), Counter(comparable(last_part(name)) for name in names)
    left = [row for row, place in enumerate(places) if place == ()]
    for row in sorted(left, key=lambda row: -comparable(names[row]).count("/")):  # the most precise first
        alike = comparable(names[row])
        last = last_part(alike)
        paths = [path for path in ends[last] if comparable(path).endswith(f"/{alike}")]
        take(row, paths or (ends[last] if wanted[last] == 1 and len(ends[last]) == 1 else []))
    return places


def _by_end(paths: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[comparable(last_part(path))].append(path)
    return found


def _warn(uri: str, reason: str) -> None:
    log.warning("skipped %s: %s", storage.printable(storage.redact(uri)), reason)

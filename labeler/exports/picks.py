"""What only all rows together decide: splits with near-duplicates on one side, and a balanced number per category.

Reads the run once before the export does; it holds 45 to 225 bytes an image (docs/guides/export.md).
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labeler.errors import Refused
from labeler.exports.near_copies import group
from labeler.exports.selection import ChosenImage, Selection
from labeler.exports.splits import key_of

_BACKGROUND = -1  # "category" of images without boxes: they are balanced like any other


@dataclass(frozen=True)
class Picks:
    """Rows that an export selected, and the split of each.

    Attributes:
        split: (rows of the run,) int8 position of each row's split, -1 where it is not selected.
        groups: how many groups of near-duplicates have more than one image.
        grouped: how many images are in those.
        largest: images of the largest.
    """

    split: npt.NDArray[np.int8]
    groups: int = 0
    grouped: int = 0
    largest: int = 0


def needs_picks(selection: Selection) -> bool:
    """Return whether the selection needs the extra pass; a split by digest or group alone does not."""
    return selection.images_per_category is not None or (len(selection.splits.names) > 1 and selection.near_copies >= 0)


def split_of(image: ChosenImage, selection: Selection) -> int:
    """Position of an image's split, where no other image has a say in it."""
    return int(selection.splits.of(np.array([_keys(image, selection.group_by)[1]], np.uint64))[0])


def require_group_column(selection: Selection, keep: tuple[str, ...]) -> None:
    """Refused when images cannot be grouped by what is asked for."""
    if selection.group_by is None:
        return
    if len(selection.splits.names) < 2:
        raise Refused("--group-by keeps groups on one side of a split: give --split, too")
    if selection.group_by not in (*keep, "shard_id", "digest"):
        some = ", ".join((*keep, "shard_id"))
        raise Refused(f"--group-by {selection.group_by!r}: no such column; use {some} (input.keep carries more)")


def pick(images: Iterable[ChosenImage], rows: Callable[[], int], selection: Selection) -> Picks:
    """Decide for all images that were chosen so far.

    - Splits: by the image's digest (or by the group's name, with `group_by`), so that a grown run splits as before.
      Near-duplicates go where the one with the least key goes.
    - `images_per_category`: an image stays if it is among the first that many of any of its categories, in the order of
      its key, which is as good as random. A rare category keeps all its images. Boxes are never dropped for balance,
      because an object without its box teaches the detector that there is none; so a frequent category may end with
      more, from images that are there for a rare one. Images with a box that a person has reviewed all stay.

    Args:
        rows: says how many rows were looked at, once the images are.
    """
    found = _Found(selection.images_per_category)
    for image in images:
        found.add(image, selection.group_by)
    place, keys = np.frombuffer(found.places, np.int64), np.frombuffer(found.keys, np.uint64)
    kept = np.ones(len(place), np.bool_) if found.cap is None else np.isin(place, found.balanced())
    split = np.full(rows(), -1, np.int8)
    splits = selection.splits
    if len(splits.names) == 1:
        split[place[kept]] = 0
        return Picks(split)
    labels = group(
        np.frombuffer(found.hashes, np.int64).view(np.uint64),
        np.frombuffer(found.has_hash, np.int8).astype(np.bool_),
        keys if selection.group_by is not None else None,
        bits=selection.near_copies,
    )
    least = np.full(int(labels.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, labels, keys)
    split[place[kept]] = splits.of(least[labels])[kept]
    sizes = np.bincount(labels)
    shared = sizes[sizes > 1]
    return Picks(split, len(shared), int(shared.sum()), int(shared.max(initial=0)))


@dataclass
class _Found:
    """Facts about every chosen image, in arrays that grow; the best of each category in heaps, worst first."""

    cap: int | None
    places: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("Q"))
    hashes: array[int] = field(default_factory=lambda: array("q"))
    has_hash: array[int] = field(default_factory=lambda: array("b"))
    heaps: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    reviewed: array[int] = field(default_factory=lambda: array("q"))  # places

    def add(self, image: ChosenImage, group_by: str | None) -> None:
        row, place = image.row, image.image_id - 1
        own, key = _keys(image, group_by)
        self.places.append(place)
        self.keys.append(key)
        self.hashes.append(row["phash"] or 0)
        self.has_hash.append(row["phash"] is not None)
        if image.detections.reviewed.any():
            self.reviewed.append(place)
        if self.cap is not None:
            for category in set(image.detections.category_ids.tolist()) or {_BACKGROUND}:
                heap = self.heaps.setdefault(category, [])
                push = heapq.heappush if len(heap) < self.cap else heapq.heappushpop
                push(heap, (-own, -place))

    def balanced(self) -> npt.NDArray[np.int64]:
        """The places that stay; one may be there for several categories."""
        parts = [np.fromiter((-place for _, place in heap), np.int64, len(heap)) for heap in self.heaps.values()]
        return np.concatenate([*parts, np.frombuffer(self.reviewed, np.int64)])


def _keys(image: ChosenImage, group_by: str | None) -> tuple[int, int]:
    """(the image's own key, the key that its split goes by)."""
    own = key_of(image.row["digest"] or image.row_id)
    name = image.row.get(group_by) if group_by is not None else None
    return own, own if name is None else key_of(f"{group_by}={name}")

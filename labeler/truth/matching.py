"""Detections against objects: greedily, at every IoU threshold and area range of a category."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pycocotools.mask

Kind = Literal["bbox", "segm"]
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # as cocoeval has them, to the last bit
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_HELD = 1 << 18  # overlaps held at a time
_AT_ONCE = 1 << 15  # overlaps matched at once: each takes 300 bytes or so at ten thresholds


@dataclass(frozen=True)
class Side:
    """The objects, or the detections, of one category; sorted by image, detections by falling score within it.

    Attributes:
        image: (n,) int32 positions.
        regions: (n, 4) xywh boxes, or (n,) RLE objects.
        areas: (n,) float64 square pixels.
        scores: (n,) of detections; zeros for objects.
        crowd, ignore: (n,) bool of objects; False for detections.
    """

    image: npt.NDArray[np.int32]
    regions: npt.NDArray[Any]
    areas: npt.NDArray[np.float64]
    scores: npt.NDArray[Any]
    crowd: Flags
    ignore: Flags


@dataclass(frozen=True)
class Matches:
    """Matches of the few detections that overlap any object enough; all others match nothing.

    Attributes:
        rows: (m,) the detections.
        matched: (areas, thresholds, m) bool.
        to_ignored: (areas, thresholds, m) bool, matched to an object that does not count.
    """

    rows: npt.NDArray[np.int64]
    matched: Flags
    to_ignored: Flags


@dataclass(frozen=True)
class _Overlaps:
    """An image's objects, and those of its detections that overlap any of them enough."""

    objects: slice
    found: npt.NDArray[np.int64]
    overlaps: npt.NDArray[np.float64]  # (found, objects)


def match(objects: Side, detections: Side) -> Matches:
    """Greedy, best score first; detections with equal scores in their order.

    Only images that have both come to the matching, and of those only detections that overlap some object by the
    lowest threshold at least: the others cannot match.
    """
    ignored = outside_areas(objects.areas) | objects.ignore
    nothing = np.zeros((len(AREAS), len(IOU_THRESHOLDS), 0), np.bool_)
    rows, matched, to_ignored = [np.zeros(0, np.int64)], [nothing], [nothing]
    for images in _parts(objects, detections):
        by_area = _match_by_area(images, ignored, objects.crowd)
        rows += [image.found for image in images]
        matched.append(by_area[0])
        to_ignored.append(by_area[1])
    return Matches(np.concatenate(rows), np.concatenate(matched, 2), np.concatenate(to_ignored, 2))


def _parts(objects: Side, detections: Side) -> Iterator[list[_Overlaps]]:
    """Yield the images with detections that can match, that many at a time that their overlaps fit into memory."""
    part: list[_Overlaps] = []
    held = 0
    for here, there in _shared_images(objects, detections):
        overlaps = overlap(detections.regions[there], objects.regions[here], objects.crowd[here].astype(np.uint8))
        candidates = np.flatnonzero(overlaps.max(1) >= IOU_THRESHOLDS[0])
        if len(candidates):
            part.append(_Overlaps(here, there.start + candidates, overlaps[candidates]))
            held += part[-1].overlaps.size
        if held >= _HELD:
            yield part
            part, held = [], 0
    if part:
        yield part


def _match_by_area(images: list[_Overlaps], ignored: Flags, crowd: Flags) -> tuple[Flags, Flags]:
    """Return (matched, to_ignored) of all candidates, each (areas, thresholds, candidates).

    The area only decides which objects do not count. Where that is none of an image's, or all, the matching is one and
    the same, and done once: the usual case.

    Args:
        ignored: (areas, objects) objects that do not count.
    """
    starts, stops = np.array([(image.objects.start, image.objects.stop) for image in images]).T
    before = np.pad(np.cumsum(ignored, 1), ((0, 0), (1, 0)))
    ignored_in: npt.NDArray[np.int64] = before[:, stops] - before[:, starts]  # (areas, images)
    mixed = (ignored_in > 0) & (ignored_in < stops - starts)
    tasks = [(image, np.ones(image.overlaps.shape[1], np.bool_)) for image in images]
    tasks += [(images[image], ignored[area, images[image].objects]) for area, image in np.argwhere(mixed)]
    task_of = np.tile(np.arange(len(images)), (len(AREAS), 1))  # (areas, images)
    task_of[mixed] = np.arange(len(images), len(tasks))
    first, matched, to_ignored = _solve(tasks, crowd)
    lengths = np.array([len(image.found) for image in images])
    own = rank_in_group(np.repeat(np.arange(len(images)), lengths))  # a candidate's place in its image
    columns = np.repeat(first[task_of], lengths, axis=1) + own  # (areas, candidates)
    counts_not = np.repeat(ignored_in > 0, lengths, axis=1)
    return matched[:, columns].swapaxes(0, 1), to_ignored[:, columns].swapaxes(0, 1) & counts_not[:, None]


def _solve(tasks: list[tuple[_Overlaps, Flags]], crowd: Flags) -> tuple[npt.NDArray[np.int64], Flags, Flags]:
    """Match images, each with a choice of the objects to ignore.

    Returns:
        Where each task's detections begin; (thresholds, detections) matched; the same, matched to an ignored object.
    """
    shapes = np.array([image.overlaps.shape for image, _ in tasks])
    first = np.cumsum(shapes[:, 0]) - shapes[:, 0]
    matched, to_ignored = np.zeros((2, len(IOU_THRESHOLDS), shapes[:, 0].sum()), np.bool_)
    for batch in _alike(shapes):
        most = shapes[batch].max(0)
        overlaps = np.full((len(batch), *most), -1.0)
        ignore, crowds = np.zeros((2, len(batch), most[1]), np.bool_)
        for place, task in enumerate(batch.tolist()):
            image, ignored = tasks[task]
            overlaps[place, : len(image.found), : len(ignored)] = image.overlaps
            ignore[place, : len(ignored)] = ignored
            crowds[place, : len(ignored)] = crowd[image.objects]
        chosen = match_greedily(overlaps, ignore, crowds, IOU_THRESHOLDS)
        real = np.arange(most[0]) < shapes[batch, :1]  # (batch, detections)
        columns = (first[batch, None] + np.arange(most[0]))[real]
        hits = chosen >= 0
        matched[:, columns] = hits.swapaxes(0, 1)[:, real]
        ignored_hits = hits & ignore[np.arange(len(batch))[:, None, None], chosen]
        to_ignored[:, columns] = ignored_hits.swapaxes(0, 1)[:, real]
    return first, matched, to_ignored


def _alike(shapes: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield tasks in batches of much the same shape, each small enough for the memory and at least one task."""
    order = np.lexsort((shapes[:, 1], shapes[:, 0]))
    start = 0
    while start < len(order):
        ahead = np.maximum.accumulate(shapes[order[start : start + _AT_ONCE]], 0).prod(1)
        padded = ahead * np.arange(1, len(ahead) + 1)
        stop = start + max(1, int(np.count_nonzero(padded <= _AT_ONCE)))
        yield order[start:stop]
        start = stop


def outside_areas(areas: npt.NDArray[np.float64]) -> Flags:
    """Return (areas, n) bool: which of n areas lie outside each of AREAS."""
    return np.stack([(areas < low) | (areas > high) for low, high in AREAS.values()])


def overlap(detections: npt.NDArray[Any], objects: npt.NDArray[Any], crowd: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (detections, objects) float64 IoU; over a crowd, the part of the detection inside it. All not empty."""
    are_boxes = detections.ndim == 2
    sides = [np.ascontiguousarray(side, np.float64) if are_boxes else list(side) for side in (detections, objects)]
    ious: npt.NDArray[Any] = pycocotools.mask.iou(*sides, crowd)
    return ious


def _shared_images(objects: Side, detections: Side) -> Iterator[tuple[slice, slice]]:
    """For each image with both: its rows among the objects, and among the detections."""
    shared = np.intersect1d(objects.image, detections.image)
    bounds = [np.searchsorted(side.image, [shared, shared + 1]).T for side in (objects, detections)]  # (shared, 2)
    for (start, stop), (first, last) in zip(bounds[0].tolist(), bounds[1].tolist(), strict=True):
        yield slice(start, stop), slice(first, last)


def rank_in_group(groups: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return (n,) 0-based place of each row within its run of equal values; equal values stand together."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1)) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, lengths)


Flags = npt.NDArray[np.bool_]
_HIGHEST = 1 - 1e-10  # cocoeval's: a threshold of 1 admits an overlap that rounding made a little less


def match_greedily(
    overlaps: npt.NDArray[np.float64], ignore: Flags, crowd: Flags, thresholds: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Return the object that each detection takes at each threshold: (images, thresholds, detections), -1 for none.

    A detection takes the object that it overlaps most, if by the threshold at least; of equal overlaps the last. One
    that does not count is taken only where none that counts is free; a crowd stays free.

    Args:
        overlaps: (images, detections, objects), detections by falling score; -1 where a pair is not allowed.
        ignore: (images, objects) objects that do not count.
        crowd: (images, objects) objects that any number of detections may take.
        thresholds: (thresholds,) above 0.
    """
    images, detections, objects = overlaps.shape
    limits = np.minimum(np.asarray(thresholds, np.float64), _HIGHEST)
    chosen = np.full((images, len(limits), detections), -1, np.int64)
    if not objects:
        return chosen
    preference = overlaps.argsort(2, kind="stable").argsort(2)  # the higher the better
    preference += objects * ~ignore[:, None]
    closed = np.zeros((images, len(limits), objects), np.bool_)
    for place in range(detections):
        possible = (overlaps[:, place, None] >= limits[:, None]) & ~closed
        best = np.where(possible, preference[:, place, None], -1).argmax(2)
        taken = possible & (np.arange(objects) == best[..., None])
        chosen[:, :, place] = np.where(taken.any(2), best, -1)
        closed |= taken & ~crowd[:, None]
    return chosen

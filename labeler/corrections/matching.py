"""Find what a person did with each box of an image: by labeler's ids if they came back, else by
overlap and category.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labeler.corrections.reviewed import BOXES, COMPLETE, NEW, Reviewed
from labeler.labels.boxes import clip_to_image, iou
from labeler.labels.detections import Detections
from labeler.labels.extensions import absent
from labeler.labels.masks import Mask
from labeler.labels.records import Row

ACCEPTED, MOVED, RENAMED, BOTH, ADDED = SOURCES = ("accepted", "moved", "renamed", "moved+renamed", "added")
SAME_PX = 0.5  # sides that move less were rounded by the tool: percents, or two decimals
SAME_IOU = 0.5

Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """The decision about a row.

    Attributes:
        state: COMPLETE or BOXES.
        places: (k,) the detection of the row that each reviewed box was; NEW for an added one.
        boxes: (k, 4) float32, as drawn, within the image.
        category_ids: (k,) int32.
        moved, renamed: (k,) whether a person changed its sides, its category.
        masks: (k,) that came back; None if none did.
        removed: (r,) places of boxes that the reviewer was shown, and removed.
        unshown: how many further boxes of a complete image go, because nobody was shown them.
    """

    state: str
    places: Places
    boxes: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int32]
    moved: Flags
    renamed: Flags
    masks: tuple[Mask | None, ...] | None
    removed: Places
    unshown: int

    def sources(self, earlier: Detections) -> list[str]:
        """(k,) what each reviewed box is now, after this review and those before."""
        before = earlier.more.get("source", absent("source", len(earlier)))
        return [
            ADDED if place == NEW or before[place] == ADDED else _joined(before[place], bool(moved), bool(renamed))
            for place, moved, renamed in zip(self.places, self.moved, self.renamed, strict=True)
        ]

    def apply(self, row: Row) -> Row:
        """The row after the review."""
        reviewed = self._reviewed(row.detections)
        stays = np.zeros(len(row.detections), np.bool_)
        if self.state == BOXES:
            stays[:] = True
            stays[self.places[self.places != NEW]] = False
            stays[self.removed] = False
        found = Detections.concat([reviewed, row.detections[stays]]) if stays.any() else reviewed
        is_complete = COMPLETE in (self.state, row.review)
        return replace(
            row,
            detections=found,
            status="labeled" if len(found) else "empty",
            review=COMPLETE if is_complete else BOXES,
            error=None if self.state == COMPLETE else row.error,
        )

    def _reviewed(self, earlier: Detections) -> Detections:
        """The boxes that a person has checked, those of the model first and by its score."""
        added = self.places == NEW
        ours, count = np.where(added, 0, self.places), len(self.places)
        base = earlier[ours] if len(earlier) else _nothing(count)
        unmoved = ~(self.moved | added)
        scores = base.more.get("model_score", absent("model_score", count))
        more = {name: np.where(added, absent(name, count), values) for name, values in base.more.items()}
        known = base.reviewed if len(earlier) else added  # its score is that of a review before
        more["model_score"] = np.where(added, np.float32(np.nan), np.where(known, scores, base.scores))
        more["source"] = np.array(self.sources(earlier), np.object_)
        found = Detections(
            np.where(unmoved[:, None], base.boxes, self.boxes),
            np.ones(count, np.float32),
            np.where(self.renamed | added, self.category_ids, base.category_ids),
            np.where(added, np.int16(-1), base.chunks),
            self._masks(base, unmoved),
            more,
        )
        return found[np.lexsort((ours, -np.nan_to_num(more["model_score"]), added))]

    def _masks(self, base: Detections, unmoved: Flags) -> npt.NDArray[np.object_] | None:
        """(k,) the box's own mask unless it moved away, or the one that came back if a person changed it.

        A mask whose box was deleted in the tool is a box around it: moved, and the mask fits it.
        """
        masks = np.full(len(unmoved), None, np.object_)
        for place, unchanged in enumerate(unmoved.tolist()):
            own = base.mask_of(place)
            theirs = None if self.masks is None else self.masks[place]
            is_own = theirs is None or (own is not None and theirs.counts == own.counts)
            around = None if theirs is None else theirs.bounds
            fits = around is not None and np.allclose(around, self.boxes[place], atol=SAME_PX)
            masks[place] = (own if unchanged or fits else None) if is_own else theirs
        return masks if any(mask is not None for mask in masks) else None


def _nothing(count: int) -> Detections:
    """Return a placeholder for the detections of a row that has none, where all boxes were added."""
    return Detections.of(np.zeros((count, 4)), np.zeros(count), np.zeros(count))


def _joined(before: str | None, moved: bool, renamed: bool) -> str:
    moved, renamed = moved or before in (MOVED, BOTH), renamed or before in (RENAMED, BOTH)
    return BOTH if moved and renamed else MOVED if moved else RENAMED if renamed else ACCEPTED


def decide(image: Reviewed, ids: npt.NDArray[np.int32], earlier: Detections, size: tuple[int, int]) -> Decision:
    """Compare a reviewed image with the detections that it went out with.

    Args:
        ids: (n,) categories of the image's boxes.
        earlier: the row's detections; masks are not looked at.
        size: (height, width) of the upright image.
    """
    height, width = size
    theirs = clip_to_image(image.boxes, height=height, width=width)
    if image.state == BOXES:
        places, nothing = image.places, np.zeros(len(image.places), np.bool_)
        removed = np.array(sorted(image.removed), np.int64)
        return Decision(BOXES, places, earlier.boxes[places], ids, nothing, nothing, None, removed, 0)
    ours = clip_to_image(earlier.boxes, height=height, width=width)
    same_sides = (np.abs(theirs[:, None] - ours[None]) < SAME_PX).all(2)
    overlaps = np.maximum(iou(theirs, ours), np.where(same_sides, SAME_IOU, 0))  # of boxes without an area
    places = _by_id(image.places, overlaps)
    candidates = _candidates(image, earlier, places)
    asked = np.zeros(len(earlier), np.bool_)
    asked[[place for place in image.asked or () if place < len(earlier)]] = True
    candidates |= asked
    _by_overlap(places, candidates, overlaps, ids[:, None] == earlier.category_ids, earlier.scores)
    matched = places != NEW
    safe = np.where(matched, places, 0)
    moved, renamed = np.zeros(len(places), np.bool_), np.zeros(len(places), np.bool_)
    if len(earlier):
        moved = matched & (np.abs(theirs - ours[safe]) >= SAME_PX).any(1)
        renamed = matched & (ids != earlier.category_ids[safe])
    gone = np.ones(len(earlier), np.bool_)
    gone[places[matched]] = False
    if image.asked is not None:
        removed = np.flatnonzero(gone & (asked if image.shown is None else candidates))
        judged = moved | renamed | ~matched
        judged[matched] |= asked[places[matched]]
        return _some(Decision(BOXES, places, theirs, ids, moved, renamed, image.masks, removed, 0), judged)
    removed = np.flatnonzero(gone & candidates)
    return Decision(COMPLETE, places, theirs, ids, moved, renamed, image.masks, removed, int(gone.sum()) - len(removed))


def _some(decision: Decision, judged: Flags) -> Decision:
    """The decision about these boxes alone; the row keeps its others as they were."""
    masks = decision.masks
    return replace(
        decision,
        places=decision.places[judged],
        boxes=decision.boxes[judged],
        category_ids=decision.category_ids[judged],
        moved=decision.moved[judged],
        renamed=decision.renamed[judged],
        masks=None if masks is None else tuple(masks[at] for at in np.flatnonzero(judged)),
    )


def _by_id(claimed: Places, overlaps: npt.NDArray[np.float64]) -> Places:
    """(n,) places that ids name; of copies with one id the one that still lies there, and NEW for the others."""
    places = np.where(claimed < overlaps.shape[1], claimed, NEW)
    for place, count in zip(*np.unique(places[places != NEW], return_counts=True), strict=True):
        if count > 1:
            copies = np.flatnonzero(places == place)
            places[copies] = NEW
            places[copies[np.argmax(overlaps[copies, place])]] = place
    return places


def _candidates(image: Reviewed, earlier: Detections, places: Places) -> Flags:
    """(earlier,) which boxes the reviewer was shown; where the file does not say, those as good as the worst that came
    back with an id, or all."""
    shown = np.ones(len(earlier), np.bool_)
    if image.shown is not None:
        shown[:] = False
        shown[[place for place in image.shown if place < len(earlier)]] = True
    elif (places != NEW).any():
        shown = earlier.scores >= earlier.scores[places[places != NEW]].min()
    return shown


def _by_overlap(
    places: Places,
    candidates: Flags,
    overlaps: npt.NDArray[np.float64],
    same: Flags,
    scores: npt.NDArray[np.float32],
) -> None:
    """Give each box without an id the free earlier box that it overlaps most, those of its category first."""
    free = candidates.copy()
    free[places[places != NEW]] = False
    possible = (overlaps >= SAME_IOU) & free & (places == NEW)[:, None]
    rows, columns = np.nonzero(possible)
    order = np.lexsort((-scores[columns], -np.round(overlaps[rows, columns], 3), ~same[rows, columns]))
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if places[row] == NEW and free[column]:
            places[row], free[column] = column, False


def agreement(image: Reviewed, earlier: Detections) -> tuple[int, int]:
    """(boxes that came back with an id, how many of them still overlap the box of that id)."""
    if image.state == BOXES:
        return 0, 0
    known = (image.places != NEW) & (image.places < len(earlier))
    lost = int((image.places >= len(earlier)).sum())
    pairs = zip(image.boxes[known], image.places[known], strict=True)
    near = [iou(box[None], earlier.boxes[place][None])[0, 0] >= SAME_IOU for box, place in pairs]
    return lost + len(near), sum(near)

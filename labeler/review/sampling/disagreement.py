"""Boxes of a run that another run over the same images does not have, or names otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labeler.errors import Refused
from labeler.exports.selection import Selector, unsuppressed
from labeler.exports.writing import ExportedRun
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review.comparison import match_categories, selector
from labeler.review.differences import compare_boxes
from labeler.review.join import Join, Pair, RunSide
from labeler.review.reservoir import Ints, Reservoir
from labeler.review.sampling.unit_boxes import PLACE, RANKS, ROW, UNIT, WIDTH
from labeler.runs import Snapshot, UnitKey

_ORDER = {"renamed": 0, "lost": 0, "moved": 1}  # a box that is only somewhat elsewhere is rarely wrong
_REASONS = {"renamed": "named otherwise", "lost": "not found", "moved": "elsewhere"}


@dataclass(frozen=True)
class Other:
    """The second run.

    Attributes:
        thresholds: its boxes at or above these take part.
    """

    snapshot: Snapshot
    thresholds: Thresholds
    suppress_iou: float | None


def disagreeing(
    source: ExportedRun, choosing: Selector, other: Other, most: int, seed: int
) -> tuple[Ints, list[str | None]]:
    """Return ((n, WIDTH) entries, reasons) of at most `most` boxes of the run, at random.

    Boxes of categories that the other run does not have are excluded: it was not asked for them.

    Raises:
        Refused: no category or no image in common.
    """
    run = source.snapshot.run
    to_first, _ = match_categories((run.vocabulary(), other.snapshot.run.vocabulary()), partial=True)
    select = selector(other.thresholds, to_first)

    def theirs(detections: Detections) -> Detections:
        kept = select(detections)
        return kept if other.suppress_iou is None else kept[unsuppressed(kept, other.suppress_iou)]

    def ours(detections: Detections) -> Detections:
        return detections[choosing.kept(detections)]

    join = Join((RunSide(source.snapshot, ours), RunSide(other.snapshot, theirs)))
    rng, found, kinds, images = np.random.default_rng(seed), Reservoir(1, most, WIDTH + 1), list(_ORDER), 0
    for pair in join:
        images += 1
        entries = _entries(pair, set(to_first.values()), kinds, rng)
        priority = np.array([_ORDER[kinds[kind]] for kind in entries[:, WIDTH]]) + entries[:, WIDTH - 2] / RANKS
        found.add(np.zeros(len(entries), np.int64), priority, entries)
    if not images:
        raise Refused(
            f"runs {run.manifest.run_id} and {other.snapshot.run.manifest.run_id} have no labeled image in common "
            "(images are joined by the digest of their bytes); give --against a run over the same input"
        )
    entries = found.result()[1]
    stored = _stored_places(source, choosing, entries, join.units[0])
    good = stored >= 0
    entries = entries[good]
    entries[:, PLACE] = stored[good]
    return entries[:, :WIDTH], [_REASONS[kinds[kind]] for kind in entries[:, WIDTH].tolist()]


def _entries(pair: Pair, common: set[int], kinds: list[str], rng: np.random.Generator) -> Ints:
    """(n, WIDTH + 1) boxes of the first side on which the two differ; PLACE counts its selected boxes."""
    first, second = pair.detections
    if first is None or second is None:
        return np.zeros((0, WIDTH + 1), np.int64)
    differing = [
        (one.first, kinds.index(one.kind))
        for one in compare_boxes(first, second)
        if one.first is not None and one.kind in _ORDER and int(first.category_ids[one.first]) in common
    ]
    where = pair.places[0]
    rows = [[where.unit, where.row, place, int(rng.integers(0, RANKS)), 0, kind] for place, kind in differing]
    return np.array(rows, np.int64).reshape(-1, WIDTH + 1)


def _stored_places(source: ExportedRun, choosing: Selector, entries: Ints, units: list[UnitKey]) -> Ints:
    """(n,) each box's place among its row's stored boxes; -1 for rows that were removed since."""
    stored = np.full(len(entries), -1, np.int64)
    wanted = {units[number]: number for number in np.unique(entries[:, UNIT]).tolist()}
    for unit, choice in ExportedRun(source.snapshot.only(wanted)).choices(choosing, masks=False):
        images = dict(choice.chosen)
        for at in np.flatnonzero(entries[:, UNIT] == wanted[unit]).tolist():
            image = images.get(int(entries[at, ROW]))
            if image is not None:
                stored[at] = image.places[entries[at, PLACE]]
    return stored

"""The strategies that choose boxes in one pass: each keeps a bounded number of candidates and orders them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.labels.boxes import area
from labeler.review.reservoir import Ints, Reservoir, in_turns
from labeler.review.sampling.allocation import LEAST, allocate, cut_into_strata
from labeler.review.sampling.unit_boxes import RANK, RANKS, WIDTH, UnitBoxes

CELLS = 200  # of scores: strata are whole cells, so that their borders need no pass of their own
STRATA = 5
_RARE_AT_ONCE = 30  # boxes of a category before the next one's turn: as many as a precision of its own needs
_RARE_HELD = 1 << 20  # entries, of all categories together: 40 MB
_KINDS = ("small", "border", "thin", "nested", "whole", "inside another")
_SMALL = 8  # pixels of the shorter side
_THIN = 8  # times as long as wide
_NESTED = 0.9  # part of a box that is in another of its category
_WHOLE = 0.95  # part of the image
_MOST_PAIRS = 2_000  # boxes of an image, above which none is looked for in another


class Strategist(ABC):
    """Takes a run's boxes unit by unit; most promising first at the end."""

    @abstractmethod
    def add(self, boxes: UnitBoxes) -> None: ...

    @abstractmethod
    def candidates(self) -> tuple[Ints, list[str | None]]:
        """((n, WIDTH) entries, the best first, each one's reason)."""


class Margin(Strategist):
    """Boxes whose score is within `band` above their threshold, at random; then the next above."""

    def __init__(self, most: int, band: float) -> None:
        self._found, self._band = Reservoir(1, most, WIDTH), band

    def add(self, boxes: UnitBoxes) -> None:
        above = boxes.scores.astype(np.float64) - boxes.limits
        priority = np.where(above < self._band, boxes.ranks / RANKS, 1 + above)
        self._found.add(np.zeros(len(boxes), np.int64), priority, boxes.entries)

    def candidates(self) -> tuple[Ints, list[str | None]]:
        entries = self._found.result()[1]
        return entries, [None] * len(entries)


class Rare(Strategist):
    """Boxes of the categories that the run has fewest boxes of: some of each, from the rarest on, then more of each."""

    def __init__(self, most: int, category_ids: npt.ArrayLike) -> None:
        self._ids = np.sort(np.asarray(category_ids, np.int64))
        each = min(most, max(_RARE_AT_ONCE, _RARE_HELD // max(1, len(self._ids))))
        self._found = Reservoir(max(1, len(self._ids)), each, WIDTH)
        self._counts = np.zeros(len(self._ids), np.int64)

    def add(self, boxes: UnitBoxes) -> None:
        place = np.searchsorted(self._ids, boxes.categories)
        known = (place < len(self._ids)) & np.isin(boxes.categories, self._ids)
        place = place[known]
        self._counts += np.bincount(place, minlength=len(self._counts))
        self._found.add(place, boxes.ranks[known].astype(np.float64), boxes.entries[known])

    def candidates(self) -> tuple[Ints, list[str | None]]:
        group, entries = self._found.result()
        turn = (np.arange(len(group)) - np.searchsorted(group, group)) // _RARE_AT_ONCE
        order = np.lexsort((group, self._counts[group], turn))
        return entries[order], [None] * len(entries)


class Suspicious(Strategist):
    """Boxes of a kind that is often wrong, one of each kind in turn, at random within it."""

    def __init__(self, most: int, seed: int) -> None:
        self._found, self._seed = Reservoir(len(_KINDS), most, WIDTH), seed

    def add(self, boxes: UnitBoxes) -> None:
        for kind, chosen in enumerate(_kinds(boxes)):
            self._found.add(np.full(int(chosen.sum()), kind), boxes.ranks[chosen], boxes.entries[chosen])

    def candidates(self) -> tuple[Ints, list[str | None]]:
        group, entries = self._found.result()
        queues = {
            (0, kind): [(kind, place) for place in np.flatnonzero(group == kind).tolist()]
            for kind in np.unique(group).tolist()
        }
        turns = in_turns(queues, seed=self._seed) if queues else []
        return entries[[place for _, place in turns]], [_KINDS[kind] for kind, _ in turns]


def _kinds(boxes: UnitBoxes) -> list[npt.NDArray[np.bool_]]:
    """(n,) of each kind, whether a box is of it."""
    sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    shorter, longer = sides.min(1), sides.max(1)
    at_border = (boxes.xyxy[:, :2] <= 1).any(1) | (boxes.xyxy[:, 2:] >= boxes.sides - 1).any(1)
    whole = area(boxes.xyxy) >= _WHOLE * boxes.sides.prod(1)
    nested, same = _in_others(boxes)
    return [shorter < _SMALL, at_border & ~whole, longer > _THIN * np.maximum(shorter, 1), nested, whole, same]


def _in_others(boxes: UnitBoxes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(n,) each: whether a box is in another of its category in the image, and of another category."""
    inside = np.zeros((2, len(boxes)), np.bool_)
    starts = np.flatnonzero(np.diff(boxes.image, prepend=-1))
    for start, stop in itertools.pairwise([*starts.tolist(), len(boxes)]):
        if not 1 < stop - start <= _MOST_PAIRS:
            continue
        xyxy, mine = boxes.xyxy[start:stop].astype(np.float64), boxes.categories[start:stop]
        low, high = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2]), np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
        part = np.maximum(high - low, 0).prod(2) / np.maximum(area(xyxy), 1e-9)[:, None]
        np.fill_diagonal(part, 0)
        same = mine[:, None] == mine[None]
        inside[0, start:stop] = ((part >= _NESTED) & same).any(1)
        inside[1, start:stop] = ((part >= _NESTED) & ~same).any(1)
    return inside[0], inside[1]


@dataclass(frozen=True)
class Draw:
    """Boxes that were drawn with known probabilities.

    Attributes:
        entries: (n, WIDTH), by stratum, then by rank.
        stratum: (n,) of each.
        sizes: (strata,) boxes of the run.
        drawn: (strata,) boxes of the sample.
        lowest: (strata,) scores from which on each holds boxes.
    """

    entries: Ints
    stratum: Ints
    sizes: Ints
    drawn: Ints
    lowest: npt.NDArray[np.float64]


def strata_for(boxes: int) -> int:
    """Return into how many strata to cut the run for a draw: each gets LEAST boxes, as far as it has them."""
    return min(STRATA, max(1, boxes // LEAST))


class ByScore:
    """Keeps the boxes of least rank of each small interval of scores: a uniform sample of any strata made of those.

    One pass is enough: where strata begin and how many boxes each gets is decided after it. Memory: CELLS * `most`
    entries of 40 bytes.

    Args:
        most: boxes that will be drawn at most.
        strata: how many at most; 1 for a plain random sample.
    """

    def __init__(self, most: int, strata: int = STRATA) -> None:
        self._found, self._strata = Reservoir(CELLS, most, WIDTH), strata
        self._histogram = np.zeros(CELLS, np.int64)

    def add(self, boxes: UnitBoxes) -> None:
        cell = cell_of(boxes.scores)
        self._histogram += np.bincount(cell, minlength=CELLS)
        self._found.add(cell, boxes.ranks, boxes.entries)

    @property
    def boxes(self) -> int:
        return int(self._histogram.sum())

    def cut_as(self, sizes: list[int]) -> bool:
        """Cut into strata of these sizes, as an earlier draw did; return whether that is possible."""
        for strata in range(1, STRATA + 1):
            self._strata = strata
            if self.sizes.tolist() == sizes:
                return True
        return False

    @property
    def stratum_of_cell(self) -> Ints:
        """(CELLS,) the stratum of each."""
        return cut_into_strata(self._histogram, self._strata)

    @property
    def sizes(self) -> Ints:
        """(strata,) boxes of the run."""
        cut = self.stratum_of_cell
        sizes: Ints = np.bincount(cut, self._histogram, minlength=int(cut.max()) + 1).astype(np.int64)
        return sizes

    def draw(self, boxes: int, spread: npt.ArrayLike | None = None, least: npt.ArrayLike = LEAST) -> Draw:
        """Draw that many boxes.

        Args:
            spread: (strata,) as `allocate` takes it; None draws in proportion to the strata's boxes.
            least: (strata,) boxes that were drawn from each before: the draw begins with the same ones.
        """
        cut, sizes = self.stratum_of_cell, self.sizes
        drawn = allocate(boxes, sizes, np.ones(len(sizes)) if spread is None else spread, least)
        cell, entries = self._found.result()
        stratum = cut[cell]
        order = np.lexsort((*entries.T[::-1], entries[:, RANK], stratum))
        stratum, entries = stratum[order], entries[order]
        rank = np.arange(len(stratum)) - np.searchsorted(stratum, stratum)
        kept = rank < drawn[stratum]
        filled = np.flatnonzero(self._histogram)
        lowest = filled[np.searchsorted(cut[filled], np.arange(len(sizes)))] / CELLS
        return Draw(entries[kept], stratum[kept], sizes, drawn, lowest)


def cell_of(scores: npt.ArrayLike) -> Ints:
    """(n,) the interval of each score."""
    cells: Ints = np.clip(np.asarray(scores, np.float64) * CELLS, 0, CELLS - 1).astype(np.int64)
    return cells

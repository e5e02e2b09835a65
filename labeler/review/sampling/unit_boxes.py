"""The boxes of one unit that an export would keep, as arrays: what strategies choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.exports.selection import ChosenImage
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.runs import UnitKey

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
RANKS = 1 << 53  # exact as a float64
WIDTH = 5  # numbers of an entry: unit number, row, place in the row's stored boxes, rank, perceptual hash (0: unknown)
UNIT, ROW, PLACE, RANK, HASH = range(WIDTH)


@dataclass(frozen=True)
class UnitBoxes:
    """(n,) each.

    Attributes:
        image: position of its image among the unit's selected images.
        xyxy: (n, 4) pixels.
        sides: (n, 2) width and height of its image.
        limits: each box's threshold.
        entries: (n, WIDTH) int64, what is kept of a box that is drawn.
    """

    image: Ints
    categories: npt.NDArray[np.int32]
    scores: Floats
    xyxy: Floats
    sides: Floats
    limits: Floats
    entries: Ints

    @property
    def ranks(self) -> Ints:
        """(n,) random numbers below RANKS, the same whenever the run is sampled with this seed."""
        ranks: Ints = self.entries[:, RANK]
        return ranks

    def __len__(self) -> int:
        return len(self.scores)


def unit_boxes(
    unit: UnitKey, number: int, chosen: Sequence[tuple[int, ChosenImage]], thresholds: Thresholds, seed: int
) -> UnitBoxes:
    """Gather a unit's boxes.

    A box's rank depends on the seed, its unit, row and place alone: another threshold draws the same boxes as far as it
    has them, and a run that grew draws among its old units as before.

    Args:
        number: of the unit among those read.
        chosen: (row in the unit, image) of its selected images.
    """
    found = [image for _, image in chosen]
    lengths = np.array([len(image.detections) for image in found], np.int64)
    together = Detections.concat(image.detections for image in found)
    image = np.repeat(np.arange(len(found)), lengths)
    rows = np.array([row for row, _ in chosen], np.int64)
    sides = np.array([[image.row["width"], image.row["height"]] for image in found], np.float32).reshape(-1, 2)
    hashes = np.array([image.row["phash"] or 0 for image in found], np.int64)
    places = np.concatenate([np.zeros(0, np.int64), *(image.places for image in found)]).astype(np.int64)
    entries = np.stack(
        [np.full(len(image), number), rows[image], places, _ranks(unit, seed, found, image, places), hashes[image]], 1
    ).astype(np.int64)
    limits = thresholds.limits(together.category_ids)
    return UnitBoxes(image, together.category_ids, together.scores, together.boxes, sides[image], limits, entries)


def _ranks(unit: UnitKey, seed: int, found: Sequence[ChosenImage], image: Ints, places: Ints) -> Ints:
    """(n,) a random number of each box: those of a row's stored boxes come from a generator of its own row."""
    ranks: Ints = np.zeros(len(places), np.int64)
    starts = np.searchsorted(image, np.arange(len(found) + 1))
    for number, one in enumerate(found):
        mine = slice(starts[number], starts[number + 1])
        if mine.start < mine.stop:
            rng = np.random.default_rng([seed, int(unit[0]), int(one.row["index"])])
            ranks[mine] = rng.integers(0, RANKS, len(one.stored))[places[mine]]
    return ranks

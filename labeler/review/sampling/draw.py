"""Draw a sample for review from a run: read its rows once, then the units that were drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labeler import storage
from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.exports.sampled import MOST_BOXES, DrawnBox, Population, Sample, SampledImage, Strategy, Stratum
from labeler.exports.selection import ChosenImage, Selection
from labeler.exports.state import commits
from labeler.exports.writing import ExportedRun
from labeler.review.reservoir import Ints
from labeler.review.sampling.allocation import spread_of
from labeler.review.sampling.disagreement import Other, disagreeing
from labeler.review.sampling.strategies import (
    ByScore,
    Draw,
    Margin,
    Rare,
    Strategist,
    Suspicious,
    cell_of,
    strata_for,
)
from labeler.review.sampling.unit_boxes import HASH, PLACE, ROW, UNIT, UnitBoxes, unit_boxes
from labeler.runs import Snapshot, UnitKey

BAND = 0.1
_SHARES: dict[Strategy, float] = {"estimate": 0.3, "margin": 0.4, "rare": 0.2, "suspicious": 0.1}  # of a mixed sample
_NEAR_BITS = 3  # images whose perceptual hashes differ in no more are copies to a reviewer
_OTHER_BOXES = "the run has other boxes than when the sample to continue was drawn; draw a new sample"
DRAWN_BY_CHANCE = ("estimate", "random")

Entry = tuple[int, int, int]  # unit number, row, place


@dataclass(frozen=True)
class Pilot:
    """Marks of some boxes, from which the boxes of an estimate are allocated to strata.

    Attributes:
        scores, right: (n,) of the marked boxes.
        before: the sample whose boxes these are and that is continued; None for marks from elsewhere.
    """

    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    before: Sample | None = None


@dataclass(frozen=True)
class Request:
    """A request for a sample.

    Attributes:
        selection: which boxes and images an export would keep: the population.
        boxes: of the sample, those of a continued one among them.
        band: of `margin`, above the threshold.
        other: of `disagree`.
    """

    strategy: Strategy
    selection: Selection
    boxes: int
    seed: int = 0
    band: float = BAND
    other: Other | None = None
    pilot: Pilot | None = None


@dataclass
class _TakenBoxes:
    """Boxes that are in the sample so far."""

    designs: dict[Entry, tuple[Strategy, int | None, float | None, str | None]] = field(default_factory=dict)
    hashes: dict[int, set[tuple[int, int]]] = field(default_factory=dict)

    def draw(self, draw: Draw, strategy: Strategy) -> None:
        inclusion = draw.drawn / draw.sizes
        for entry, stratum in zip(draw.entries.tolist(), draw.stratum.tolist(), strict=True):
            self.designs[entry[UNIT], entry[ROW], entry[PLACE]] = strategy, stratum, float(inclusion[stratum]), None

    def choose(self, entries: Ints, reasons: Sequence[str | None], strategy: Strategy, count: int) -> None:
        """Take the first `count` entries that are new, and of whose near-duplicates none was chosen."""
        for entry, reason in zip(entries.tolist(), reasons, strict=True):
            if count <= 0:
                return
            key = entry[UNIT], entry[ROW], entry[PLACE]
            if key not in self.designs and not self._is_copy(entry):
                self.designs[key] = strategy, None, None, reason
                count -= 1

    def _is_copy(self, entry: list[int]) -> bool:
        """Return whether a near-duplicate of the box's image was chosen; if not, the image is noted."""
        code, row = entry[HASH] & ((1 << 64) - 1), (entry[UNIT], entry[ROW])
        if not code or row in self.hashes.get(code, ()):
            return False
        near = (other for other in self.hashes if (other ^ code).bit_count() <= _NEAR_BITS)
        if next(near, None) is not None:
            return True
        self.hashes[code] = {row}
        return False


_BY_SCORE = ("estimate", "margin", "mixed")  # strategies


def draw_sample(snapshot: Snapshot, request: Request) -> Sample:
    """Draw.

    Reads every row once without masks, and the drawn units a second time; `disagree` reads both runs once. Memory does
    not grow with the run but by some 100 bytes a unit: candidates are kept in reservoirs.

    Raises:
        Refused: no box to draw from, boxes without a score for a strategy that goes by it, or the sample to continue is
            of other boxes.
    """
    if not 1 <= request.boxes <= MOST_BOXES:
        raise Refused(f"--n is a number of boxes from 1 to {MOST_BOXES:,}, got {request.boxes:,}")
    if "unscored" in snapshot.run.columns and request.strategy in _BY_SCORE:
        raise Refused(
            f"--strategy {request.strategy} goes by scores, and run {snapshot.run.manifest.run_id} was imported with "
            "boxes that have none; take random, rare, suspicious or disagree"
        )
    drawing = _Drawing(ExportedRun(snapshot), request)
    drawing.read()
    return drawing.sample()


class _Drawing:
    """One draw: `read`, then `sample`."""

    def __init__(self, source: ExportedRun, request: Request) -> None:
        self._source, self._asked = source, request
        self._choosing = source.chooser(request.selection)
        self._units: list[UnitKey] = []
        self._first_ids: list[int] = []  # of each unit's first image
        self._images = 0
        self._by_score = ByScore(request.boxes, 1 if request.strategy == "random" else strata_for(self._by_chance))
        self._choosers = self._make_choosers()

    def _make_choosers(self) -> Mapping[Strategy, Strategist]:
        asked, run = self._asked, self._source.snapshot.run
        most = 2 * asked.boxes  # candidates: some are near-duplicates, or drawn already
        ids = [category.id for category in run.vocabulary().categories if not category.negative]
        wanted = _SHARES if asked.strategy == "mixed" else {asked.strategy: 1.0}
        made: dict[Strategy, Strategist] = {}
        if "margin" in wanted:
            made["margin"] = Margin(most, asked.band)
        if "rare" in wanted:
            made["rare"] = Rare(most, ids)
        if "suspicious" in wanted:
            made["suspicious"] = Suspicious(most, asked.seed)
        return made

    def read(self) -> None:
        rows = 0
        for unit, choice in self._source.choices(self._choosing, masks=False):
            boxes = unit_boxes(
                unit, len(self._units), choice.chosen, self._asked.selection.thresholds, self._asked.seed
            )
            self._units.append(unit)
            self._first_ids.append(rows + 1)
            rows += choice.rows
            self._images += len(choice.chosen)
            self._add(boxes)
        if not self._by_score.boxes:
            raise Refused(
                f"run {storage.redact(self._source.snapshot.run.uri)} has no box at or above its threshold to sample "
                "from; lower --threshold"
            )

    def _add(self, boxes: UnitBoxes) -> None:
        self._by_score.add(boxes)
        for chooser in self._choosers.values():
            chooser.add(boxes)

    def sample(self) -> Sample:
        asked, taken, strata = self._asked, _TakenBoxes(), tuple[Stratum, ...]()
        if asked.strategy in (*DRAWN_BY_CHANCE, "mixed"):
            draw = self._draw(self._by_chance)
            taken.draw(draw, "random" if asked.strategy == "random" else "estimate")
            strata = tuple(
                Stratum(lowest_score=low, boxes=size, drawn=drawn)
                for low, size, drawn in zip(draw.lowest.tolist(), draw.sizes.tolist(), draw.drawn.tolist(), strict=True)
            )
        if asked.other is not None:
            entries, reasons = disagreeing(self._source, self._choosing, asked.other, 2 * asked.boxes, asked.seed)
            taken.choose(entries, reasons, "disagree", asked.boxes)
        for strategy, chooser in self._choosers.items():
            share = _SHARES[strategy] if asked.strategy == "mixed" else 1.0
            taken.choose(*chooser.candidates(), strategy, round(share * asked.boxes))
        for strategy, chooser in self._choosers.items():  # a mixed sample is filled up with what there is
            taken.choose(*chooser.candidates(), strategy, asked.boxes - len(taken.designs))
        return Sample(
            run=self._source.snapshot.run.manifest.run_id,
            strategy=asked.strategy,
            seed=asked.seed,
            population=self._population(),
            strata=strata,
            images=self._images_of(taken),
        )

    @property
    def _by_chance(self) -> int:
        """Return how many boxes are drawn with a known probability, if any are."""
        share = _SHARES["estimate"] if self._asked.strategy == "mixed" else 1.0
        return max(1, round(share * self._asked.boxes))

    def _draw(self, boxes: int) -> Draw:
        pilot = self._asked.pilot
        if pilot is None:
            return self._by_score.draw(boxes)
        before = pilot.before
        if before is not None and not self._by_score.cut_as([one.boxes for one in before.strata]):
            raise Refused(_OTHER_BOXES)
        cut, strata = self._by_score.stratum_of_cell, len(self._by_score.sizes)
        place = cut[cell_of(pilot.scores)]
        judged = np.bincount(place, minlength=strata)
        spread = spread_of(np.bincount(place, pilot.right, minlength=strata), judged)
        if before is None:
            return self._by_score.draw(boxes, spread)
        if before.population != self._population():
            raise Refused(_OTHER_BOXES)
        return self._by_score.draw(boxes, spread, np.array([one.drawn for one in before.strata]))

    def _population(self) -> Population:
        selection = self._asked.selection
        return Population(
            **Population.settings_of(selection.thresholds),
            suppress=selection.suppress_iou,
            boxes=self._by_score.boxes,
            images=self._images,
            units=digest_of(canonical_json(commits(self._source.snapshot))),
        )

    def _images_of(self, taken: _TakenBoxes) -> tuple[SampledImage, ...]:
        """Read the sampled images again, by row."""
        before = self._asked.pilot.before if self._asked.pilot else None
        pilot = set() if before is None else {(one.shard_id, one.index, box.box) for one, box in before.boxes}
        by_row: dict[UnitKey, dict[int, list[int]]] = {}
        for number, row, place in sorted(taken.designs):
            by_row.setdefault(self._units[number], {}).setdefault(row, []).append(place)
        numbers = {unit: number for number, unit in enumerate(self._units)}
        snapshot = self._source.snapshot
        found = []
        for unit, choice in ExportedRun(snapshot.only(by_row)).choices(self._choosing, masks=False):
            images, first = dict(choice.chosen), self._first_ids[numbers[unit]]
            for row, places in by_row[unit].items():
                image = images[row]
                boxes = tuple(
                    _box(image, place, *taken.designs[numbers[unit], row, place], pilot=pilot) for place in places
                )
                found.append(_sampled(image, unit, first + row, boxes))
        return tuple(sorted(found, key=lambda image: (image.shard_id, image.index)))


def _sampled(image: ChosenImage, unit: UnitKey, image_id: int, boxes: tuple[DrawnBox, ...]) -> SampledImage:
    return SampledImage(
        shard_id=image.row["shard_id"],
        index=image.row["index"],
        unit=unit[1],
        image_id=image_id,
        file_name=image.file_name,
        digest=image.row["digest"],
        boxes=boxes,
    )


def _box(
    image: ChosenImage,
    place: int,
    design: Strategy,
    stratum: int | None,
    inclusion: float | None,
    reason: str | None,
    *,
    pilot: set[tuple[str, int, int]],
) -> DrawnBox:
    return DrawnBox(
        box=place,
        category_id=int(image.stored.category_ids[place]),
        score=round(float(image.stored.scores[place]), 6),
        design=design,
        stratum=stratum,
        inclusion=inclusion,
        reason=reason,
        pilot=(image.row["shard_id"], image.row["index"], place) in pilot,
    )

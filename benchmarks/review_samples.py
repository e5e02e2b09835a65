"""How good are samples for review? Reviews by known truth: does the interval hold, how wide is it, what is found.

    python -m jobs.make_shapes FOLDER/data --images 1200 --images-per-shard 100 --seed 21
    labeler label configs/demo.yaml input=FOLDER/data/shards output=FOLDER/run vocabulary=FOLDER/data/vocabulary.txt
    python -m benchmarks.review_samples FOLDER/run --annotations FOLDER/data/annotations.json --against OTHER_RUN

A box is right if it and an object of its category overlap by 0.5 or more, one to one. A review judges 300 boxes: drawn
at random, in strata in proportion, or in strata after a pilot of 100 of the 300 (`sample --continue`). The strata,
draws and intervals are those of `labeler sample` and `labeler evaluate --sample`; only the reading of rows is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import machine
from labeler.exports.sampled import Sample
from labeler.exports.selection import Selection
from labeler.exports.writing import ExportedRun
from labeler.labels.detections import Detections
from labeler.labels.thresholds import Thresholds
from labeler.review.differences import compare_boxes
from labeler.review.sampling.allocation import spread_of
from labeler.review.sampling.disagreement import Other
from labeler.review.sampling.draw import Request, draw_sample
from labeler.review.sampling.estimator import ShareEstimate, estimate_precision
from labeler.review.sampling.strategies import (
    CELLS,
    STRATA,
    ByScore,
    Draw,
    Margin,
    Rare,
    Strategist,
    Suspicious,
    cell_of,
)
from labeler.review.sampling.unit_boxes import RANK, RANKS, ROW, WIDTH, UnitBoxes, unit_boxes
from labeler.runs import Run, read_snapshot, require_run
from labeler.truth.category_names import same_name
from labeler.truth.ground_truth import GroundTruth, read_ground_truth

BOXES = 300
PILOT = 100
_DRAWS = 5  # of `disagree`, which reads both runs each time


@dataclass(frozen=True)
class Judged:
    """Boxes of which all is known.

    Attributes:
        boxes: their entries hold each one's position as ROW.
        right: (n,) bool.
    """

    boxes: UnitBoxes
    right: npt.NDArray[np.bool_]

    def at_least(self, threshold: float) -> Judged:
        """Those with at least this score, as a population with that threshold."""
        kept = self.boxes.scores >= np.float32(threshold)
        fields = {name: values[kept] for name, values in vars(self.boxes).items()}
        limits = np.full(int(kept.sum()), threshold, np.float32)
        return Judged(_numbered(replace(self.boxes, **fields | {"limits": limits})), self.right[kept])

    def shuffled(self, rng: np.random.Generator) -> UnitBoxes:
        """The boxes with other ranks: another draw."""
        entries = self.boxes.entries.copy()
        entries[:, RANK] = rng.integers(0, RANKS, len(entries))
        return replace(self.boxes, entries=entries)

    @staticmethod
    def of_histogram(rows: Sequence[Sequence[int]]) -> Judged:
        """Boxes of (cell of scores, boxes, right ones of them), as results hold them."""
        scores = np.concatenate([np.full(count, (cell + 0.5) / CELLS) for cell, count, _ in rows]).astype(np.float32)
        right = np.concatenate([np.arange(count) < hits for _, count, hits in rows])
        n = len(scores)
        plain = np.zeros((n, 4), np.float32)
        boxes = UnitBoxes(
            np.arange(n), np.zeros(n, np.int32), scores, plain, plain[:, :2], scores * 0, np.zeros((n, WIDTH), np.int64)
        )
        return Judged(_numbered(boxes), right)

    def histogram(self) -> list[list[int]]:
        """As `of_histogram` takes it."""
        cell = cell_of(self.boxes.scores)
        count, hits = np.bincount(cell, minlength=CELLS), np.bincount(cell, self.right, minlength=CELLS)
        return [[int(c), int(count[c]), int(hits[c])] for c in np.flatnonzero(count)]


def _numbered(boxes: UnitBoxes) -> UnitBoxes:
    entries = boxes.entries.copy()
    entries[:, ROW] = np.arange(len(entries))
    return replace(boxes, entries=entries)


def judge(run: Run, truth: GroundTruth, threshold: float) -> tuple[Judged, dict[tuple[str, int, int], bool]]:
    """The run's boxes with at least this score; and whether each is right, by shard id, index and position."""
    categories = [category for category in run.vocabulary().categories if not category.negative]
    named = same_name(truth.categories, categories)
    objects: dict[str, list[int]] = defaultdict(list)
    for number, image in enumerate(truth.image.tolist()):
        objects[truth.file_names[image]].append(number)
    source = ExportedRun(read_snapshot(run))
    chooser = source.chooser(Selection(thresholds=Thresholds(threshold), suppress_iou=0.5, min_side=1.0))
    parts, right, by_box = [], [], {}
    for number, (unit, choice) in enumerate(source.choices(chooser, masks=False)):
        parts.append(unit_boxes(unit, number, choice.chosen, Thresholds(threshold), 0))
        for _, image in choice.chosen:
            mine = objects[image.file_name]
            x, y, width, height = truth.boxes_xywh[mine].T
            ids = [named[position].id for position in truth.category[mine].tolist()]  # type: ignore[union-attr]
            there = Detections.of(np.stack([x, y, x + width, y + height], 1), np.ones(len(mine)), ids)
            good = np.zeros(len(image.detections), np.bool_)
            for one in compare_boxes(image.detections, there):
                if one.kind in ("same", "moved") and one.first is not None:
                    good[one.first] = True
            right.append(good)
            for place, ok in zip(image.places.tolist(), good.tolist(), strict=True):
                by_box[image.row["shard_id"], image.row["index"], place] = ok
    merged = {name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    merged["image"] = np.cumsum(np.diff(_images(parts), prepend=0) != 0)
    return Judged(_numbered(UnitBoxes(**merged)), np.concatenate(right)), by_box


def _images(parts: Sequence[UnitBoxes]) -> npt.NDArray[np.int64]:
    """(n,) a number of each box's image that no other unit's images have."""
    return np.concatenate([part.image + (number << 20) for number, part in enumerate(parts)])


def simulate(population: Judged, reviews: int, *, seed: int = 0) -> dict[str, Any]:
    """Review the population repeatedly, in three ways; return how often 95% intervals hold, and their width."""
    rng, truth = np.random.default_rng(seed), float(population.right.mean())
    found: dict[str, list[ShareEstimate]] = {"random": [], "proportional": [], "pilot, then Neyman": []}
    for _ in range(reviews):
        boxes = population.shuffled(rng)
        plain, strata = ByScore(BOXES, 1), ByScore(BOXES, STRATA)
        plain.add(boxes)
        strata.add(boxes)
        found["random"].append(_estimate(population, plain.draw(BOXES)))
        found["proportional"].append(_estimate(population, strata.draw(BOXES)))
        first = strata.draw(PILOT)
        hits = np.bincount(first.stratum, population.right[first.entries[:, ROW]], minlength=len(first.sizes))
        found["pilot, then Neyman"].append(
            _estimate(population, strata.draw(BOXES, spread_of(hits, first.drawn), first.drawn))
        )
    random = float(np.mean([one.half_width for one in found["random"]]))
    return {
        "boxes": len(population.boxes),
        "precision": round(truth, 4),
        "judged": BOXES,
        "reviews": reviews,
        "designs": {name: _summary(estimates, truth, random) for name, estimates in found.items()},
    }


def _estimate(population: Judged, draw: Draw) -> ShareEstimate:
    inclusion = (draw.drawn / draw.sizes)[draw.stratum]
    return estimate_precision(draw.stratum, inclusion, population.right[draw.entries[:, ROW]])


def _summary(estimates: Sequence[ShareEstimate], truth: float, random: float) -> dict[str, float]:
    half = float(np.mean([one.half_width for one in estimates]))
    values = np.array([one.value for one in estimates])
    return {
        "holds": round(float(np.mean([one.low <= truth <= one.high for one in estimates])), 4),
        "half_width": round(half, 4),
        "of_random": round(half / random, 3),
        "bias": round(float(values.mean() - truth), 4),
        "standard_error": round(float(values.std()), 4),
    }


def errors_per_box(population: Judged, category_ids: Sequence[int], reviews: int) -> dict[str, float]:
    """The share of wrong boxes among the first BOXES that each strategy chooses, over that many draws."""
    rng, shares = np.random.default_rng(1), defaultdict(list)
    for seed in range(reviews):
        boxes = population.shuffled(rng)
        choosers: dict[str, Strategist] = {
            "margin": Margin(BOXES, 0.1),
            "rare": Rare(BOXES, category_ids),
            "suspicious": Suspicious(BOXES, seed),
        }
        for name, chooser in choosers.items():
            chooser.add(boxes)
            shares[name].append(~population.right[chooser.candidates()[0][:BOXES, ROW]])
        for name, strata in (("random", 1), ("estimate", STRATA)):
            drawer = ByScore(BOXES, strata)
            drawer.add(boxes)
            shares[name].append(~population.right[drawer.draw(BOXES).entries[:, ROW]])
    return {name: round(float(np.concatenate(found).mean()), 4) for name, found in shares.items()}


def _drawn(run: Run, request: Request, right: Mapping[tuple[str, int, int], bool]) -> float:
    """The share of wrong boxes in real samples of the run."""
    samples: list[Sample] = [draw_sample(read_snapshot(run), replace(request, seed=seed)) for seed in range(_DRAWS)]
    return round(
        float(
            np.mean([not right[image.shard_id, image.index, box.box] for one in samples for image, box in one.boxes])
        ),
        4,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.review_samples", description=__doc__)
    parser.add_argument("run_uri", metavar="RUN")
    parser.add_argument("--annotations", required=True, metavar="URI")
    parser.add_argument("--against", metavar="RUN", help="another run over the same images, for `disagree`")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.05, 0.2, 0.5])
    parser.add_argument("--reviews", type=int, default=200)
    parser.add_argument("--output", type=Path, help="JSON to write")
    asked = parser.parse_args()
    run, truth = require_run(asked.run_uri), read_ground_truth(asked.annotations)
    every, by_box = judge(run, truth, min(asked.thresholds))
    ids, rows = [category.id for category in run.vocabulary().categories if not category.negative], []
    for threshold in asked.thresholds:
        population = every.at_least(threshold)
        row = {"threshold": threshold, **simulate(population, asked.reviews)}
        row["errors_per_box"] = errors_per_box(population, ids, asked.reviews)
        selection = Selection(thresholds=Thresholds(threshold), suppress_iou=0.5, min_side=1.0)
        row["errors_per_box"]["mixed"] = _drawn(run, Request("mixed", selection, BOXES), by_box)
        if asked.against:
            other = Other(read_snapshot(require_run(asked.against)), Thresholds(threshold), 0.5)
            row["errors_per_box"]["disagree"] = _drawn(run, Request("disagree", selection, BOXES, other=other), by_box)
        rows.append(row)
        print(json.dumps(row, indent=1), flush=True)
    if asked.output:
        images = len({(shard_id, index) for shard_id, index, _ in by_box})
        about = {"run": run.manifest.run_id, "images_with_boxes": images, "histogram": every.histogram()}
        text = json.dumps({"machine": machine(), "rows": rows, **about})
        asked.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

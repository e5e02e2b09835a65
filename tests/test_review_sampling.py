"""Samples for review: estimates and allocations against brute force, draws, and simulated reviews."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.review_samples import Judged, simulate
from labeler.calibration.fit import two_sided, wilson
from labeler.review.sampling.allocation import allocate, cut_into_strata, spread_of
from labeler.review.sampling.estimator import estimate_part, estimate_precision, smoothed_shares
from labeler.review.sampling.strategies import CELLS, ByScore, Margin, Rare, Suspicious
from labeler.review.sampling.unit_boxes import RANK, RANKS, ROW, WIDTH, UnitBoxes

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "review-samples.json"


def boxes_of(scores: list[float], *, ranks: np.ndarray | None = None, **values: object) -> UnitBoxes:
    n = len(scores)
    entries = np.zeros((n, WIDTH), np.int64)
    entries[:, ROW] = np.arange(n)
    entries[:, RANK] = np.arange(n) if ranks is None else ranks
    plain = {
        "image": np.arange(n),
        "categories": np.zeros(n, np.int32),
        "scores": np.array(scores, np.float32),
        "xyxy": np.tile(np.array([100, 100, 150, 150], np.float32), (n, 1)),
        "sides": np.full((n, 2), 500, np.float32),
        "limits": np.full(n, 0.3, np.float32),
        "entries": entries,
    }
    return UnitBoxes(**(plain | values))  # type: ignore[arg-type]


def test_over_all_samples_that_could_be_drawn_the_estimate_is_the_truth() -> None:
    strata, right = np.array([0] * 5 + [1] * 4), np.array([1, 0, 0, 1, 0, 1, 1, 1, 0])
    chance = np.array([2 / 5] * 5 + [3 / 4] * 4)
    values = []
    for first in itertools.combinations(range(5), 2):
        for second in itertools.combinations(range(5, 9), 3):
            drawn = [*first, *second]
            values.append(estimate_precision(strata[drawn], chance[drawn], right[drawn]).value)
    assert np.mean(values) == pytest.approx(right.mean())
    assert len({round(value, 6) for value in values}) > 5


def test_the_interval_is_that_of_stratified_sampling_without_replacement() -> None:
    """Two strata of 1,000 and 3,000 boxes, 100 judged of each, half and nine tenths right: by hand."""
    stratum = np.repeat([0, 1], 100)
    chance = np.repeat([0.1, 100 / 3000], 100)
    right = np.concatenate([np.arange(100) < 50, np.arange(100) < 90])
    found = estimate_precision(stratum, chance, right)
    assert found.value == pytest.approx(0.25 * 0.5 + 0.75 * 0.9)
    low, high = 50.5 / 101, 90.5 / 101
    variance = 0.25**2 * low * (1 - low) / 100 * 0.9 + 0.75**2 * high * (1 - high) / 100 * (1 - 100 / 3000)
    overall = 0.25 * low + 0.75 * high
    assert found.worth == pytest.approx(overall * (1 - overall) / variance)
    assert (found.low, found.high) == pytest.approx(tuple(map(float, wilson(0.8, found.worth, two_sided()))))


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize("drawn", [5, 60])
def test_without_an_error_the_interval_is_as_wide_as_the_boxes_allow(right: float, drawn: int) -> None:
    stratum = np.repeat(np.arange(5), drawn)
    found = estimate_precision(stratum, np.full(len(stratum), 1e-4), np.full(len(stratum), right))
    low, high = map(float, wilson(right, 5 * drawn, two_sided()))
    assert found.value == right
    assert found.low <= right <= found.high
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)
    assert found.high - found.low > 3 / (5 * drawn) / 2


def test_what_was_judged_whole_is_known() -> None:
    stratum, right = np.array([0, 0, 0, 1]), np.array([1, 0, 1, 1])
    whole = estimate_precision(stratum, np.ones(4), right)
    assert (whole.value, whole.low, whole.high, whole.worth) == (0.75, 0.75, 0.75, np.inf)
    part = estimate_precision(stratum, np.array([1, 1, 1, 0.25]), right)
    assert part.low < part.value < part.high


def test_boxes_that_nobody_judged_are_missing_at_random_in_their_stratum() -> None:
    stratum = np.repeat([0, 1], 50)
    chance, right = np.repeat([0.1, 0.5], 50), np.tile([1.0, 0.0], 50)
    some = right.copy()
    some[:40] = np.nan
    found = estimate_precision(stratum, chance, some)
    assert found.value == estimate_precision(stratum, chance, right).value == 0.5
    assert found.judged == 60
    with pytest.raises(ValueError, match="stratum 0"):
        estimate_precision(stratum, chance, np.where(stratum == 0, np.nan, right))


@pytest.mark.parametrize(
    ("inclusion", "right"), [([0.0, 0.5], [1, 0]), ([1.5, 1.0], [1, 0]), ([0.5, 0.5], [1, 2]), ([0.5], [1, 0])]
)
def test_arrays_that_make_no_sense_are_no_estimate(inclusion: list[float], right: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be|expected"):
        estimate_precision([0, 0], inclusion, right)


def test_a_category_is_weighed_by_how_its_boxes_were_drawn() -> None:
    stratum, chance = np.repeat([0, 1], 100), np.repeat([0.5, 0.01], 100)
    part = np.arange(200) % 2 == 0
    right = np.where(stratum == 0, 0.0, 1.0)
    found = estimate_part(stratum, chance, right, part)
    assert found is not None
    assert found.value == pytest.approx(50 / 0.01 / (50 / 0.01 + 50 / 0.5))
    weights = 1 / chance[part]
    assert found.worth == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.judged == 100
    assert estimate_part(stratum, chance, right, np.zeros(200, np.bool_)) is None
    half = np.where(np.arange(200) < 50, np.nan, right)  # those left of the stratum stand for the others
    same = estimate_part(stratum, chance, half, part)
    assert same is not None
    assert same.value == pytest.approx(found.value)


def test_shares_rise_with_the_score_and_are_never_certain() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        judged = rng.integers(0, 30, 6)
        shares = smoothed_shares(rng.binomial(judged, rng.random(6)), judged)
        assert ((shares > 0) & (shares < 1)).all()
        assert (np.diff(shares) >= -0.2).all() or not judged.all()
    np.testing.assert_allclose(smoothed_shares([0, 10, 10], [10, 10, 10]), [0.5 / 11, 20.5 / 21, 20.5 / 21])
    np.testing.assert_allclose(smoothed_shares([9, 1], [10, 10]), [10.5 / 21] * 2)  # falls: pooled
    np.testing.assert_allclose(smoothed_shares([0, 1, 0, 3], [0, 4, 0, 4]), [1.5 / 5, 1.5 / 5, 1.5 / 5, 3.5 / 5])
    assert smoothed_shares([0, 0], [0, 0]).tolist() == [0.5, 0.5]


def test_no_other_allocation_has_a_smaller_variance() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        sizes, spread = rng.integers(1, 12, 3), rng.random(3) / 2 + 0.01
        boxes = int(rng.integers(3, 14))
        found = allocate(boxes, sizes, spread, 1)
        assert found.sum() == min(boxes, sizes.sum())

        def variance(drawn: tuple[int, ...], sizes: np.ndarray = sizes, spread: np.ndarray = spread) -> float:
            return float(((sizes * spread) ** 2 / np.array(drawn)).sum())  # without terms that do not depend on it

        others = itertools.product(*(range(1, size + 1) for size in sizes))
        best = min(variance(drawn) for drawn in others if sum(drawn) == found.sum())
        assert variance(tuple(found)) == pytest.approx(best)


def test_every_stratum_gets_some_and_none_more_than_it_has() -> None:
    assert allocate(20, [100, 3, 1000], [0.5, 0.5, 0.0001]).tolist() == [12, 3, 5]
    assert allocate(20, [4, 3, 5], [0.5, 0.5, 0.5]).tolist() == [4, 3, 5]
    assert allocate(7, [100, 100, 100], [0.5, 0.5, 0.5]).sum() == 7
    assert allocate(40, [100, 100], [0.001, 0.5], [20, 10]).tolist() == [20, 20], "what was drawn before stays"
    assert (spread_of([0, 5, 10], [10, 10, 10]) > 0.1).all()


def test_strata_are_even_and_none_is_empty() -> None:
    histogram = np.zeros(CELLS, np.int64)
    histogram[60:180] = 50
    cut = cut_into_strata(histogram, 5)
    assert np.bincount(cut, histogram).tolist() == [1200] * 5
    assert (np.diff(cut) >= 0).all()
    for one in (histogram * 0 + (np.arange(CELLS) == 90) * 7, (np.arange(CELLS) >= 198) * 9):
        sizes = np.bincount(cut_into_strata(one, 5), one)
        assert (sizes > 0).all()
        assert sizes.sum() == one.sum()


def test_every_box_of_a_stratum_is_drawn_as_often_and_a_larger_draw_has_the_smaller_one() -> None:
    rng, scores = np.random.default_rng(2), np.linspace(0.3, 0.99, 60)
    times = np.zeros(60)
    for _ in range(500):
        drawer = ByScore(20)
        boxes = boxes_of(scores.tolist(), ranks=rng.integers(0, RANKS, 60))
        for part in (slice(0, 35), slice(35, 60)):  # unit by unit
            fields = {name: values[part] for name, values in vars(boxes).items()}
            drawer.add(UnitBoxes(**fields))
        few, more = drawer.draw(10, least=2), drawer.draw(20, [0.5, 0.1, 0.1, 0.1, 0.1], [2] * 5)
        assert len(more.entries) == 20
        assert set(few.entries[:, ROW].tolist()) <= set(more.entries[:, ROW].tolist())
        times[few.entries[:, ROW]] += 1
    assert few.sizes.sum() == 60
    expected = 500 * np.repeat(few.drawn / few.sizes, few.sizes)
    assert np.abs(times - expected).max() < 5 * np.sqrt(500 * 0.17 * 0.83)


def test_margin_takes_boxes_just_above_their_own_threshold() -> None:
    scores = [0.31, 0.39, 0.55, 0.9, 0.61, 0.62]
    limits = np.array([0.3, 0.3, 0.3, 0.3, 0.6, 0.6], np.float32)
    chooser = Margin(6, 0.1)
    chooser.add(boxes_of(scores, ranks=np.arange(6)[::-1], limits=limits))
    assert chooser.candidates()[0][:, ROW].tolist() == [5, 4, 1, 0, 2, 3]


def test_rare_takes_some_of_each_category_from_the_rarest_on() -> None:
    categories = np.array([3] * 200 + [8] * 40 + [5] * 2, np.int32)
    chooser = Rare(100, [3, 5, 8, 9])
    chooser.add(boxes_of([0.5] * 242, categories=categories))
    taken = categories[chooser.candidates()[0][:, ROW]].tolist()
    assert taken[:62] == [5] * 2 + [8] * 30 + [3] * 30
    assert taken[62:102] == [8] * 10 + [3] * 30
    assert len(taken) == 142


def test_suspicious_boxes_say_why() -> None:
    xyxy = np.array(
        [
            [10, 10, 14, 60],  # small, and thin
            [0, 100, 80, 180],  # at the border
            [100, 100, 400, 130],  # thin
            [200, 200, 300, 300],
            [210, 210, 260, 260],  # in the one before
            [0, 0, 500, 500],  # the whole image
            [300, 300, 400, 400],  # nothing about it
        ],
        np.float32,
    )
    image = np.array([0, 1, 2, 3, 3, 4, 5])
    chooser = Suspicious(10, 0)
    nothing = {name: values[:0] for name, values in vars(boxes_of([0.5])).items()}
    chooser.add(UnitBoxes(**nothing))  # a unit without a box
    chooser.add(boxes_of([0.5] * 7, xyxy=xyxy, image=image))
    entries, reasons = chooser.candidates()
    found = {(int(row), reason) for row, reason in zip(entries[:, ROW], reasons, strict=True)}
    assert found == {
        (0, "small"), (0, "thin"), (1, "border"), (2, "thin"), (4, "nested"), (5, "whole"),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "precision"), [(0.05, 0.53), (0.2, 0.81), (0.5, 0.97)])
def test_over_200_reviews_of_shapes_the_interval_holds_and_is_narrower_than_by_chance(
    threshold: float, precision: float
) -> None:
    every = Judged.of_histogram(json.loads(RESULTS.read_text())["histogram"])
    found = simulate(every.at_least(threshold), 200)
    assert found["precision"] == pytest.approx(precision, abs=0.01)
    for design in found["designs"].values():
        assert design["holds"] >= 0.9
    stratified = found["designs"]["pilot, then Neyman"]
    assert stratified["of_random"] <= 0.85
    assert abs(stratified["bias"]) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("precision", [0.5, 0.9, 1.0])
def test_the_interval_holds_where_scores_say_nothing(precision: float) -> None:
    rows = [[cell, 40, round(40 * precision)] for cell in range(60, 180)]
    found = simulate(Judged.of_histogram(rows), 200, seed=3)
    for design in found["designs"].values():
        assert design["holds"] >= 0.9
        assert design["half_width"] > 0.005

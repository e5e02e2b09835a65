"""Who is shown when there are more categories than images: some of each kind, and categories from everywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from labeler.labels.unit_work import UnitWork
from labeler.review import comparison
from labeler.review.report import pick_images
from labeler.review.reservoir import Reservoir, in_turns, interleave
from labeler.review.reviews import Reviews
from labeler.review.survey import BANDS, SUSPICIONS, Survey
from labeler.review.truth import Truth

CATEGORIES = 1203
UNITS = (("000000", 0),)


def entries(groups: int, first_row: int, each: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Each group wants images of its own."""
    rows = first_row + np.arange(groups * each)
    return np.repeat(np.arange(groups), each), np.stack([np.zeros_like(rows), rows, np.zeros_like(rows)], 1)


def survey() -> Survey:
    drawn, suspicious = entries(CATEGORIES * len(BANDS), 0), entries(len(SUSPICIONS), 10**6, 12)
    return Survey((), {}, [], np.zeros((0, 100), np.int64), 0, 0, [], UnitWork(), drawn, suspicious, UNITS, Reviews())


def truth() -> Truth:
    return Truth({}, entries(2 * CATEGORIES, 2 * 10**6), UNITS, None, {})  # type: ignore[arg-type]


def test_no_queues_give_nothing() -> None:
    assert in_turns({}, seed=0) == []
    assert list(interleave([(2, ""), (1, "ab")])) == ["a", "b"]


def test_lists_take_turns_by_weight_until_they_end() -> None:
    assert "".join(interleave([(1, "abc"), (2, "uvwxyz"), (1, "1")])) == "auv1bwxcyz"


def test_galleries_show_categories_from_everywhere_in_every_band() -> None:
    picks = pick_images(survey(), None, 400)
    cells = [pick.row // 2 for pick in picks if pick.row < 10**6]
    categories = [cell // len(BANDS) for cell in cells]
    assert len(set(categories)) > 300
    assert min(categories) < 30
    assert max(categories) > CATEGORIES - 30
    assert min(Counter(cell % len(BANDS) for cell in cells).values()) >= len(cells) // len(BANDS)
    assert [p.row for p in picks] == [p.row for p in pick_images(survey(), None, 400)]
    assert {p.row for p in picks} != {p.row for p in pick_images(survey(), None, 400, seed=1)}


@pytest.mark.parametrize("max_images", [40, 400])
def test_errors_leave_room_for_suspicions_and_galleries(max_images: int) -> None:
    picks = pick_images(survey(), truth(), max_images)
    assert len(picks) == max_images
    shares = Counter(min(pick.row // 10**6, 2) for pick in picks)  # galleries, suspicions, errors
    assert shares[0] >= max_images // 2
    assert shares[1] >= min(max_images // 4, 12 * len(SUSPICIONS))
    assert shares[2] >= max_images // 4
    errors = [(pick.row - 2 * 10**6) // 2 for pick in picks if pick.row >= 2 * 10**6]
    assert {group % 2 for group in errors} == {0, 1}, "false positives and misses"


def test_a_comparison_shows_every_kind_of_difference() -> None:
    drawn = Reservoir(CATEGORIES * 4, 6, 4)
    groups = np.arange(CATEGORIES * 4)
    drawn.add(groups, np.zeros(len(groups)), np.stack([np.zeros_like(groups), groups] * 2, 1))
    shown = [first.row for first, _ in comparison._pick(drawn, 300, 0)]
    assert Counter(group % 4 for group in shown) == dict.fromkeys(range(4), 75)
    assert len({group // 4 for group in shown}) == 300

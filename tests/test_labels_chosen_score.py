"""Which score of a box counts, in arrays and in tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labeler.labels.chosen_score import DETECTORS, ChosenScore, ScoreFusion, logit
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import rows_to_table, table_to_rows
from tests.label_runs import row

FUSION = ScoreFusion(0.5, 1.0, 2.0)
PLAIN = Detections.of([[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 8, 8]], [0.9, 0.5, 0.25], [3, 8, 3])
FOUND = replace(PLAIN, more={"score2": np.array([0.75, np.nan, 0.0], np.float32)})


def test_a_chosen_score_is_one_of_the_two_or_the_fusion_s() -> None:
    assert DETECTORS.of(FOUND) is FOUND.scores
    np.testing.assert_array_equal(ChosenScore("score2").of(FOUND), np.float32([0.75, 0, 0]))
    fused = ChosenScore("fused", FUSION).of(FOUND)
    by_hand = 0.5 + np.log(0.9 / 0.1) + 2 * np.log(0.75 / 0.25)
    np.testing.assert_allclose(fused[0], 1 / (1 + np.exp(-by_hand)), rtol=1e-5)
    assert fused[1] == 0
    assert 0 < fused[2] < 1e-6, "a score of 0 is not minus infinity"
    assert fused.dtype == np.float32
    assert logit(np.array([0.0, 1.0])) == pytest.approx([-9.2102, 9.2102], abs=1e-3)


def test_without_the_column_no_box_has_a_second_score() -> None:
    assert ChosenScore("score2").of(PLAIN).tolist() == [0, 0, 0]
    assert ChosenScore("score2", missing=-1.0).of(FOUND).tolist() == [0.75, -1, 0]


def test_a_box_that_a_person_has_checked_keeps_its_score() -> None:
    sources = np.array(["accepted", None, "added"], np.object_)
    found = replace(FOUND, scores=np.float32([1, 0.5, 1]), more={**FOUND.more, "source": sources})
    assert ChosenScore("score2").of(found).tolist() == [1, 0, 1]
    assert ChosenScore("score2", missing=-1.0).of(found).tolist() == [-1, -1, -1], "it says nothing of a model"


@pytest.mark.parametrize("choice", [ChosenScore("score2"), ChosenScore("fused", FUSION)])
def test_a_table_read_with_another_score_differs_in_nothing_else(choice: ChosenScore) -> None:
    rows = [row(0, FOUND), row(1), row(2, FOUND[:2]), row(3, FOUND[1:])]
    table = rows_to_table(rows, columns=("score2",))
    for part, of in ((table, rows), (table.slice(2), rows[2:])):
        swapped = choice.swap(part)
        assert swapped.schema.names == part.schema.names
        for made, one in zip(table_to_rows(swapped), of, strict=True):
            np.testing.assert_array_equal(made.detections.scores, choice.of(one.detections))
            np.testing.assert_array_equal(made.detections.boxes, one.detections.boxes)
            np.testing.assert_array_equal(made.detections.chunks, one.detections.chunks)
    assert DetectionsColumn(choice.swap(table.slice(1, 1))).lengths.tolist() == [0]
    assert choice.swap(table.select(["status"])).schema.names == ["status"]
    assert DETECTORS.swap(table) is table
    fused = choice.beside(table)["detections"].to_pylist()[0][0]
    assert ("fused" in fused) == (choice.name == "fused")


def test_a_fusion_comes_back_from_a_file_or_is_refused() -> None:
    assert ScoreFusion.from_dict(FUSION.to_dict()) == FUSION
    for bad in (None, {}, {"intercept": 1, "score": 2}, {**FUSION.to_dict(), "score": "x"},
                {**FUSION.to_dict(), "score2": float("nan")}, {**FUSION.to_dict(), "score2": True}):  # fmt: skip
        with pytest.raises(ValueError, match="a fusion has"):
            ScoreFusion.from_dict(bad)

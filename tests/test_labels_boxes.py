from __future__ import annotations

import numpy as np
import pytest

from labeler.labels import boxes


@pytest.mark.parametrize("function", [boxes.cxcywh_to_xyxy, boxes.xyxy_to_xywh])
def test_no_boxes_stay_no_boxes(function):
    assert function([]).shape == (0, 4)
    assert function(np.zeros((0, 4))).dtype == np.float32


def test_no_boxes_have_no_overlaps():
    assert boxes.iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert boxes.iou([[0, 0, 1, 1]], []).shape == (1, 0)
    assert boxes.area([]).shape == (0,)


def test_centre_and_size_become_corners():
    assert boxes.cxcywh_to_xyxy([[10, 20, 4, 6]]).tolist() == [[8, 17, 12, 23]]


def test_corners_become_corner_and_size():
    assert boxes.xyxy_to_xywh([[8, 17, 12, 23]]).tolist() == [[8, 17, 4, 6]]


def test_x_scales_with_the_width_and_y_with_the_height():
    assert boxes.scale_to_pixels([[0.5, 0.5, 1, 1]], height=100, width=400).tolist() == [[200, 50, 400, 100]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-5, -6, 50, 40], [0, 0, 50, 40]),
        ([10, 10, 500, 400], [10, 10, 200, 100]),
        ([300, 10, 400, 20], [200, 10, 200, 20]),  # wholly outside: no width is left
    ],
)
def test_boxes_are_cut_at_the_image_border(box, expected):
    assert boxes.clip_to_image([box], height=100, width=200).tolist() == [expected]


def test_a_box_without_width_or_height_has_area_zero():
    assert boxes.area([[3, 3, 3, 9], [3, 3, 9, 3], [9, 9, 3, 3], [0, 0, 2, 3]]).tolist() == [0, 0, 0, 6]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0, 0, 10, 10], 1.0),
        ([0, 0, 10, 5], 0.5),
        ([5, 5, 15, 15], 25 / 175),
        ([10, 0, 20, 10], 0.0),  # touching edges share no area
        ([4, 4, 4, 4], 0.0),
    ],
)
def test_overlap_is_intersection_over_union(other, expected):
    assert boxes.iou([[0, 0, 10, 10]], [other]) == pytest.approx(expected)


def test_two_boxes_without_area_do_not_divide_by_zero():
    assert boxes.iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]).tolist() == [[0.0]]

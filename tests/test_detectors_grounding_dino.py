from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from labeler.detectors import GroundingDino
from labeler.labels.detections import Detections
from tests.detector_parts import assert_same, photo, three_chunks


def test_no_images_give_no_detections(mm_folder):
    assert GroundingDino(mm_folder, ["cat"], threads=1).detect([]) == []


def test_ten_lines_are_enough(mm_folder):
    detector = GroundingDino(mm_folder, "coco")
    (found,) = detector.detect([photo(0)])
    assert isinstance(found, Detections)
    assert set(found.category_ids.tolist()) <= set(range(1, 91))
    assert (found.scores >= 0.05).all()
    assert (np.diff(found.scores) <= 0).all()


def test_an_image_is_the_same_alone_and_in_any_batch(mm_folder):
    images = [photo(0), photo(1, 180, 80), photo(2), photo(4), photo(5, 180, 80)]
    detector = GroundingDino(mm_folder, three_chunks(mm_folder), threads=1, nms_iou=1)
    alone = [detector.detect([image])[0] for image in images]
    for pairs_per_batch in (1, 2, 7, 100):
        detector.pairs_per_batch = pairs_per_batch
        for found, expected in zip(detector.detect(images), alone, strict=True):
            assert_same(found, expected)


def test_boxes_are_in_pixels_of_the_image_that_was_given_and_inside_it(mm_folder):
    detector = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0)
    small, large = photo(0), photo(0).repeat(3, 0).repeat(3, 1)
    (found,) = detector.detect([large])
    assert found.boxes.max() > small.shape[1]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [360, 270, 360, 270]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_the_floor_the_cap_and_the_size_are_obeyed(mm_folder):
    everything = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0, nms_iou=1).detect([photo(0)])[0]
    middle = float(np.median(everything.scores))
    floored = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=middle, nms_iou=1)
    assert len(floored.detect([photo(0)])[0]) == (everything.scores >= middle).sum()
    capped = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0, nms_iou=1, max_detections=3)
    assert_same(capped.detect([photo(0)])[0], everything[:3])
    resized = GroundingDino(mm_folder, ["cat"], threads=1, image_size=(96, 100))
    assert resized.prepare(photo(0)).pixels.shape == (75, 100, 3)


def test_an_image_without_detections_is_empty_not_missing(mm_folder):
    assert len(GroundingDino(mm_folder, ["cat"], threads=1, score_floor=1).detect([photo(0)])[0]) == 0


# ---- the rest


def test_torch_and_transformers_are_imported_on_first_use_only():
    code = (
        "import sys, labeler.detectors as d; assert d.Prepared; assert 'torch' not in sys.modules;"
        "assert 'transformers' not in sys.modules; d.GroundingDino; assert 'torch' in sys.modules;"
        "assert 'ray' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_threads_asked_for_are_the_threads_used(mm_folder):
    before = torch.get_num_threads()
    try:
        GroundingDino(mm_folder, ["cat"], threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

"""The segmenter against the transformers forward pass and post-processing, with every parameter redrawn."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from labeler import decode
from labeler.labels.detections import Detections
from labeler.labels.masks import Mask
from labeler.segmenters import Sam
from labeler.segmenters.sam import Sketch, window_of
from tests.segmenter_parts import FAMILIES, PATTERNS, detections, expected, pattern, tiny_sam

CLOSE = 1e-4  # of logits that go up to some tens


def load(family: str, **options: Any) -> Sam:
    return Sam(tiny_sam(family), **{"device": "cpu", "threads": 1, "threshold": 0.0, **options})


def masks_of(found: Detections, height: int, width: int) -> np.ndarray:
    """(n, height, width), all 0 where there is no mask."""
    masks = [found.mask_of(row) for row in range(len(found))]
    nothing = np.zeros((height, width), np.uint8)
    return np.stack([nothing if mask is None else mask.decode() for mask in masks])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_without_detections_has_no_masks_and_costs_no_forward(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = load(family)
    monkeypatch.setattr(sam, "_forward", None)
    found = sam.segment(pattern(40, 60), Detections.empty())
    assert (len(found), found.masks) == (0, None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 900), (1, 1)])
def test_images_of_a_line_of_pixels_have_masks_of_their_size(family: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    sam = load(family)
    segmented = sam.draw(sam.sketch(sam.prepare(image), detections(*size, count=3)))
    assert (len(segmented.detections), segmented.lost) == (3, 0)
    assert masks_of(segmented.detections, *size).shape == (3, *size)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", PATTERNS)
def test_masks_are_transformers_own_inside_their_boxes(family: str, size: tuple[int, int]) -> None:
    height, width = size
    image, given = pattern(*size), detections(*size, count=6)
    truth = expected(family, image, given.boxes)
    sam = load(family, boxes_per_batch=4)
    sketch = sam.sketch(sam.prepare(image), given)
    assert sketch.rows.tolist() == list(range(6))
    assert np.abs(sketch.logits - truth.low).max() <= CLOSE
    assert np.abs(sketch.quality - truth.quality).max() <= CLOSE
    found = sam.draw(sketch).detections
    ours = masks_of(found, height, width)
    assert np.array_equal(found.boxes, given.boxes)
    for row in range(6):
        left, top, right, bottom = window_of(given.boxes[row], height, width, sam._cell(32, height, width))
        inside = np.zeros((height, width), np.bool_)
        inside[top:bottom, left:right] = True
        wrong = (truth.logits[row] > 0) != ours[row]
        assert (np.abs(truth.logits[row][wrong & inside]) <= CLOSE).all()
        assert not ours[row][~inside].any()
        mask = found.mask_of(row)
        if mask is not None:
            assert mask.area == ours[row].sum() > 0
            assert mask.quality == pytest.approx(truth.quality[row], abs=CLOSE)
            assert (mask.height, mask.width) == size


@pytest.mark.parametrize("family", FAMILIES)
def test_the_masks_of_these_tests_have_both_kinds_of_pixels(family: str) -> None:
    """Else their equality would show nothing."""
    truth = expected(family, pattern(90, 160), detections(90, 160, 6).boxes)
    shares = (truth.logits > 0).mean((1, 2))
    assert ((shares > 0.05) & (shares < 0.95)).sum() >= 3
    assert np.ptp(truth.quality) > 1e-3
    assert np.abs(truth.low[0] - truth.low[1]).max() > 0.1, "boxes make a difference"


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_of_boxes_make_no_difference_and_the_image_is_encoded_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, given = pattern(90, 160), detections(90, 160, 7)
    together, few = load(family, boxes_per_batch=7), load(family, boxes_per_batch=2)
    calls: list[int] = []
    encode, decode_boxes = few._forward.encode, few._forward.decode
    monkeypatch.setattr(few._forward, "encode", lambda pixels: calls.append(0) or encode(pixels))
    monkeypatch.setattr(
        few._forward, "decode", lambda e, boxes, ids: calls.append(len(boxes)) or decode_boxes(e, boxes, ids)
    )
    one, other = (sam.sketch(sam.prepare(image), given) for sam in (together, few))
    assert calls == [0, 2, 2, 2, 1]
    assert np.abs(one.logits - other.logits).max() <= CLOSE
    single = [few.sketch(few.prepare(image), given[row : row + 1]).logits[0] for row in range(7)]
    assert np.abs(one.logits - np.stack(single)).max() <= CLOSE


def test_a_video_checkpoint_of_sam_2_is_its_image_model_without_a_warning() -> None:
    """The published ones have this type; their parts for videos are ignored."""
    warnings: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.configuration_utils")
    logger.addHandler(listener)
    sam = load("sam2_video")
    logger.removeHandler(listener)
    assert warnings == []
    image, given = pattern(90, 160), detections(90, 160, 3)
    sketch = sam.sketch(sam.prepare(image), given)
    assert np.abs(sketch.logits - expected("sam2_video", image, given.boxes).low).max() <= CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_best_detections_above_the_threshold_get_a_mask(family: str) -> None:
    image, given = pattern(60, 60), detections(60, 60, 8)
    shuffled = given[np.array([3, 0, 7, 5, 1, 2, 6, 4])]
    sam = load(family, threshold=0.7, max_masks=3)
    found = sam.segment(image, shuffled)
    assert np.array_equal(found.scores, shuffled.scores), "order and number of detections stay"
    assert sam.sketch(sam.prepare(image), shuffled).rows.tolist() == [1, 4, 5]
    assert all(found.mask_of(row) is None for row in (0, 2, 3, 6, 7))
    everything = load(family, threshold=float(given.scores[4]), max_masks=0)
    assert len(everything.sketch(everything.prepare(image), given).rows) == 5, "at the threshold counts, 0: no limit"


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_that_are_none_have_no_mask_and_do_not_touch_the_others(family: str) -> None:
    image = pattern(60, 80)
    good, crossing = [10.0, 10.0, 50.0, 40.0], [60.0, 30.0, 95.0, 75.0]
    odd = [
        [5, 5, 5, 20],  # no width
        [30, 20, 10, 40],  # inverted
        [100, 10, 140, 30],  # outside
        [-30, -30, -1, 0],
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
    ]
    given = Detections.of([good, *odd, crossing], [0.9] * 8, [1] * 8)
    sam = load(family)
    sketch = sam.sketch(sam.prepare(image), given)
    assert sketch.rows.tolist() == [0, 7]
    assert np.abs(sketch.logits - expected(family, image, given.boxes[[0, 7]]).low).max() <= CLOSE
    drawn = sam.draw(sketch)
    assert (len(drawn.detections), drawn.lost) == (8, 0)
    assert all(drawn.detections.mask_of(row) is None for row in range(1, 7))


def test_a_box_at_the_border_keeps_its_window_inside_the_image() -> None:
    cell = (4.0, 4.0)
    assert window_of(np.float32([0, 0, 100, 50]), 50, 100, cell) == (0, 0, 100, 50)
    assert window_of(np.float32([90, 40, 130, 70]), 50, 100, cell) == (82, 32, 100, 50)
    assert window_of(np.float32([40, 20, 60, 30]), 50, 100, cell) == (32, 12, 68, 38), "two cells"
    assert window_of(np.float32([400, 200, 600, 300]), 900, 900, cell) == (380, 190, 620, 310), "a tenth of the side"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pixel_is_an_image(family: str) -> None:
    """Transformers' processor takes its three channels for three rows, so there is nothing to compare with."""
    sam, given = load(family), Detections.of([[0, 0, 1, 1]], [0.9], [1])
    found = sam.segment(np.full((1, 1, 3), 200, np.uint8), given)
    assert found.masks is None or found.mask_of(0).area == 1  # type: ignore[union-attr]


def test_masks_that_are_not_finite_are_none_and_counted() -> None:
    sam, given = load("sam"), detections(60, 60, 3)
    sketch = sam.sketch(sam.prepare(pattern(60, 60)), given)
    logits, quality = sketch.logits.copy(), sketch.quality.copy()
    logits[:] = 1
    logits[0, 3, 4] = np.nan
    quality[2] = np.inf
    drawn = sam.draw(Sketch(given, sketch.rows, logits, quality, 60, 60))
    assert drawn.lost == 2
    assert [drawn.detections.mask_of(row) is None for row in range(3)] == [True, False, True]


def test_a_mask_without_a_pixel_is_none_but_not_lost() -> None:
    sam, given = load("sam"), detections(60, 60, 1)
    earlier = Mask.of_window(np.ones((9, 9), np.bool_), 0, 0, height=60, width=60)
    given = given.with_masks([earlier])  # of another segmenter: it does not stay
    sketch = Sketch(given, np.array([0]), np.full((1, 32, 32), -1, np.float32), np.ones(1, np.float32), 60, 60)
    drawn = sam.draw(sketch)
    assert (drawn.detections.masks, drawn.lost) == (None, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_close_and_overflow_is_done_again_in_float32(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, given = pattern(90, 160), detections(90, 160, 4)
    exact, half = load(family), load(family, dtype="bfloat16")
    assert (half.dtype, half.description["segmenter_dtype"]) == ("bfloat16", "bfloat16")
    truth = exact.sketch(exact.prepare(image), given)
    rough = half.sketch(half.prepare(image), given)
    assert rough.logits.dtype == rough.quality.dtype == np.float32
    assert 1e-4 < np.abs(rough.logits - truth.logits).max() < 0.2 * np.abs(truth.logits).max()
    decode_boxes = half._forward.decode

    def overflowing(embedding: Any, boxes: Any, ids: Any) -> Any:
        logits, quality = decode_boxes(embedding, boxes, ids)
        return (logits * torch.nan if half._forward.half else logits), quality

    monkeypatch.setattr(half._forward, "decode", overflowing)
    again = half.sketch(half.prepare(image), given)
    assert np.abs(again.logits - truth.logits).max() <= CLOSE
    assert half._forward.half == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_and_positions_stay_in_full_precision(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, given, seen = pattern(90, 160), detections(90, 160, 4), []
    for dtype in ("float32", "bfloat16"):
        sam = load(family, dtype=dtype)
        encoder, embed = sam._forward.model.prompt_encoder, sam._forward.model.prompt_encoder.forward
        monkeypatch.setattr(encoder, "forward", lambda embed=embed, **given: seen.append(embed(**given)) or seen[-1])
        sam.sketch(sam.prepare(image), given)
        seen.append((sam._forward._positions,))
    assert len(seen) == 4
    assert torch.equal(seen[0][0], seen[2][0])
    assert torch.equal(seen[1][0], seen[3][0])


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, given = pattern(90, 160), detections(90, 160, 7)
    sam = load("sam", boxes_per_batch=8)
    whole = sam.sketch(sam.prepare(image), given)
    decode_boxes, sizes = sam._forward.decode, []

    def short(embedding: Any, boxes: Any, ids: Any) -> Any:
        sizes.append(len(boxes))
        if len(boxes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode_boxes(embedding, boxes, ids)

    monkeypatch.setattr(sam._forward, "decode", short)
    again = sam.sketch(sam.prepare(image), given)
    assert (sizes, sam.boxes_per_batch) == ([7, 4, 2, 2, 2, 1], 2)
    assert np.abs(again.logits - whole.logits).max() <= CLOSE
    monkeypatch.setattr(sam._forward, "decode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(torch.OutOfMemoryError):
        sam.sketch(sam.prepare(image), given)


def test_an_image_that_needs_the_memory_of_other_models_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image, given = pattern(90, 160), detections(90, 160, 3)
    sam = load("sam")
    expected = sam.segment(image, given)
    encode, events = sam._forward.encode, []

    def short(pixels: Any) -> Any:
        events.append("encode")
        if "emptied" not in events:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pixels)

    monkeypatch.setattr(sam._forward, "encode", short)
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: events.append("emptied" if sys.exception() is None else "held")
    )
    assert sam.segment(image, given).count_masks() == expected.count_masks()
    assert events == ["encode", "emptied", "encode"]


def test_masks_lie_on_the_upright_image() -> None:
    """A photograph turned by EXIF is decoded upright; boxes and masks are in that frame."""
    upright = pattern(90, 160)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(np.rot90(upright)).save(buffer, "PNG", exif=exif)
    image = decode(buffer.getvalue())
    assert np.array_equal(image.pixels, upright)
    sam, given = load("sam"), detections(90, 160, 4)
    found = sam.segment(image.pixels, given)
    assert found.count_masks() > 0
    assert masks_of(found, 90, 160).tolist() == masks_of(sam.segment(upright, given), 90, 160).tolist()


def test_nothing_here_needs_torchvision() -> None:
    """Where it is installed, too: it is hidden from this child."""
    program = f"""
import sys
sys.modules["torchvision"] = None  # an ImportError for every import
import numpy as np
from labeler.labels.detections import Detections
import labeler.segmenters.checkpoint, labeler.segmenters.preprocess, labeler.segmenters.enlarge
assert "torch" not in sys.modules
from labeler.segmenters import Sam
for folder in {[str(tiny_sam(family)) for family in FAMILIES]}:
    sam = Sam(folder, device="cpu", threads=1, threshold=0)
    found = sam.segment(np.full((40, 60, 3), 99, np.uint8), Detections.of([[5, 5, 50, 30]], [0.9], [1]))
    assert len(found) == 1
print("ok")
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "ok", done.stderr

"""Where tiles are, by brute force over thousands of sizes, and which of their boxes count."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from labeler import images
from labeler.images.tiling import Tiling, View
from labeler.labels.detections import Detections
from labeler.labels.in_views import in_image
from tests.inputs import image_bytes

RNG = np.random.default_rng(0)
SIZES = [(int(h), int(w)) for h, w in np.exp(RNG.uniform(0, np.log(4000), (2000, 2)))]
NEAR_A_TILE = [(h, w) for h in range(95, 103) for w in (*range(95, 103), 181, 182, 183)]


def random_tiling() -> Tiling:
    side = int(RNG.integers(64, 1500))
    overlap = round(float(RNG.choice([0, 0.1, 0.2, RNG.uniform(0, 0.9), 0.9])), 3)
    return Tiling(side, overlap, int(side * RNG.choice([1, 1, 1.5])), 10_000)


def required_overlap(tiling: Tiling) -> int:
    return math.ceil(round(tiling.overlap * tiling.side, 6))


@pytest.mark.parametrize("sizes", [SIZES, NEAR_A_TILE], ids=["any", "near a tile"])
def test_tiles_have_one_shape_cover_every_pixel_and_overlap_as_wanted(sizes: list[tuple[int, int]]) -> None:
    seen = 0
    for number, (height, width) in enumerate(sizes):
        tiling = random_tiling() if sizes is SIZES else Tiling(98, [0, 0.2, 0.5][number % 3], 98, 10_000)
        views = tiling.views(height, width)
        assert tiling.views_count(height, width) == max(1, len(views))
        assert tiling.views_count(width, height) == tiling.views_count(height, width)
        if max(height, width) <= tiling.min_side:
            assert views == ()
            continue
        *tiles, whole = views
        seen += len(tiles)
        assert (whole.left, whole.top, whole.width, whole.height) == (0, 0, width, height)
        assert whole.whole == (-math.inf, -math.inf, math.inf, math.inf)
        assert len(set(tiles)) == len(tiles) >= 2
        assert {(tile.width, tile.height) for tile in tiles} == {(min(tiling.side, width), min(tiling.side, height))}
        lefts, tops = sorted({tile.left for tile in tiles}), sorted({tile.top for tile in tiles})
        assert [(tile.top, tile.left) for tile in tiles] == [(top, left) for top in tops for left in lefts]
        for starts, length in ((lefts, width), (tops, height)):
            side = min(tiling.side, length)
            assert starts[0] == 0
            assert starts[-1] + side == length
            overlaps = [start + side - after for start, after in pairwise(starts)]
            assert all(overlap >= required_overlap(tiling) for overlap in overlaps)
            assert max(overlaps, default=0) - min(overlaps, default=0) <= 1  # spread evenly
            fewer = len(starts) - 1  # as few as the overlap allows
            assert not fewer or fewer * side - (fewer - 1) * required_overlap(tiling) < length
    assert seen > 200


def test_every_object_no_larger_than_the_overlap_is_whole_in_a_tile() -> None:
    """But for the part of a tile's side, at each edge, in which a box counts as cut."""
    for height, width in SIZES[:400]:
        tiling = random_tiling()
        room = required_overlap(tiling) - 2 * math.ceil(tiling.side / 100)
        if room < 1 or not tiling.applies(height, width) or tiling.tiles(height, width) > 400:
            continue
        tiles = tiling.views(height, width)[:-1]
        for _ in range(5):
            wide, high = (int(RNG.integers(1, min(room, side) + 1)) for side in (width, height))
            x, y = int(RNG.integers(0, width - wide + 1)), int(RNG.integers(0, height - high + 1))
            box = np.array([x, y, x + wide, y + high])
            found = [
                in_image(Detections.of(box - [tile.left, tile.top] * 2, [0.5], [1]), tile)
                for tile in tiles
                if tile.left <= x
                and tile.top <= y
                and x + wide <= tile.left + tile.width
                and y + high <= tile.top + tile.height
            ]
            kept = [each.boxes[0].tolist() for each in found if len(each)]
            assert kept
            assert all(each == box.tolist() for each in kept)


def test_a_box_that_an_inner_edge_cuts_goes_and_one_at_the_border_of_the_image_stays() -> None:
    tile = View(left=300, top=0, width=200, height=100, image_width=500, image_height=400)  # its border: right and top
    boxes = {
        "in the middle": (50, 20, 90, 60, True),
        "at the left edge": (0, 20, 90, 60, False),
        "within a hundredth of it": (2, 20, 90, 60, False),
        "behind that": (2.5, 20, 90, 60, True),
        "at the border on the right": (50, 20, 200, 60, True),
        "at the border on top": (50, 0, 90, 60, True),
        "at the lower edge": (50, 20, 90, 99, False),
        "above it": (50, 20, 90, 98.5, True),
        "the whole tile": (0, 0, 200, 100, False),
    }
    found = Detections.of([box[:4] for box in boxes.values()], np.linspace(0.9, 0.1, len(boxes)), range(len(boxes)))
    kept = in_image(found, tile)
    assert kept.category_ids.tolist() == [number for number, box in enumerate(boxes.values()) if box[4]]
    np.testing.assert_array_equal(kept.boxes, found.boxes[kept.category_ids] + np.float32([300, 0, 300, 0]))
    assert kept.boxes.dtype == np.float32
    assert len(in_image(Detections.empty(), tile)) == 0


def test_an_image_that_needs_too_many_tiles_is_named() -> None:
    tiling = Tiling(100, 0, 100, 6)
    assert tiling.problem(200, 300) == ""
    assert tiling.problem(301, 200) == "too large: 200 x 301 is 8 tiles of 100 pixels, the limit is 6"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_the_header_says_the_size_that_is_decoded(kind: str) -> None:
    data = image_bytes(0, width=61, height=47, format=kind)
    assert images.stored_size(data) == images.decode(data).pixels.shape[:2] == (47, 61)
    assert images.stored_size(data[:4]) is None


def test_a_header_that_says_nothing_has_no_size() -> None:
    assert images.stored_size(b"no image") is None
    sideways = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (61, 47)).save(sideways, "JPEG", exif=exif)
    assert images.stored_size(sideways.getvalue()) == (47, 61)  # as stored
    assert images.decode(sideways.getvalue()).pixels.shape[:2] == (61, 47)

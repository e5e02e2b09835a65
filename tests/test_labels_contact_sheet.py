from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as pillow

from labeler.labels.contact_sheet import Tile, colour_of, draw_contact_sheet

GREY = np.full((60, 90, 3), 128, np.uint8)


def drawn(tiles: list[Tile], **options: object) -> npt.NDArray[np.uint8]:
    png = draw_contact_sheet(tiles, **options)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(pillow.open(io.BytesIO(png)))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def places(sheet: npt.NDArray[np.uint8], colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(x_min, y_min, x_max, y_max) of exactly that color."""
    rows, columns = np.nonzero((sheet == colour).all(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_no_tiles_give_a_sheet_that_says_so():
    assert len(np.unique(drawn([]))) > 2
    assert np.array_equal(drawn([]), drawn([Tile(GREY)], max_tiles=0)) is False  # "1 more not shown"


def test_a_tile_without_boxes_is_the_image_itself():
    sheet = drawn([Tile(GREY)], tile_px=90)
    assert places(sheet, (128, 128, 128)) == (8, 8, 97, 67)


def test_tiles_stand_in_rows_and_those_left_out_are_counted():
    tiles = [Tile(GREY, caption=f"image {i}") for i in range(7)]
    wide, tall = drawn(tiles, columns=7, tile_px=100), drawn(tiles, columns=2, tile_px=100)
    assert wide.shape[1] == 7 * 108 + 8
    assert tall.shape[1] == 2 * 108 + 8
    assert tall.shape[0] > 3.5 * wide.shape[0]
    few = drawn(tiles, columns=7, tile_px=100, max_tiles=3)
    assert few.shape[1] == 3 * 108 + 8
    assert few.shape[0] > wide.shape[0]  # a line that names the four others


def test_a_box_is_drawn_in_its_categorys_colour_where_it_is():
    colour = rgb(colour_of("cat"))
    sheet = drawn([Tile(GREY, [[30, 20, 60, 50]], [""], [])], tile_px=180)
    assert (sheet == rgb(colour_of(""))).all(-1).sum() > 200
    sheet = drawn([Tile(GREY, [[30, 40, 60, 50]], ["cat"], [0.9])], tile_px=360)
    x_min, _, x_max, y_max = places(sheet, colour)
    assert abs(x_min - (8 + 4 * 30)) <= 1
    assert abs(y_max - (8 + 4 * 50)) <= 1
    assert x_max >= 8 + 4 * 60 - 1


def test_names_keep_their_colour_and_most_differ():
    assert colour_of("cat") == colour_of("cat")
    assert len({colour_of(f"category {i}") for i in range(80)}) > 60


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 90, 60],
        [-50, -50, 20, 20],
        [85, 55, 500, 500],
        [80, 0, 90, 5],
        [1e12, 1e12, 2e12, 2e12],
        [np.nan] * 4,
        [50, 50, 10, 10],
        [40, 30, 40, 30],
    ],
)
def test_boxes_and_tags_never_leave_their_tile(box: list[float]):
    name = "a category with a name much wider than this small tile will ever be"
    sheet = drawn([Tile(GREY, [box], [name], [0.5])], tile_px=120)
    outside = np.ones(sheet.shape[:2], bool)
    outside[8:88, 8:128] = False
    assert (sheet[outside] == 255).all()
    assert (sheet[8:88, 8:128] == rgb(colour_of(name))).all(-1).any()


def test_the_better_box_lies_on_top():
    boxes = [[20, 30, 60, 50], [20, 30, 60, 50]]
    for scores, best in (((0.9, 0.2), "cat"), ((0.2, 0.9), "dog")):
        sheet = drawn([Tile(GREY, boxes, ["cat", "dog"], scores)], tile_px=360)
        assert tuple(sheet[8 + 4 * 40, 8 + 4 * 20]) == rgb(colour_of(best))


def test_tags_of_equal_boxes_do_not_cover_each_other():
    boxes = [[30, 20, 60, 40]] * 2
    sheet = drawn([Tile(GREY, boxes, ["cat", "dog"], [0.9, 0.8])], tile_px=360)
    sizes = [(sheet == rgb(colour_of(name))).all(-1).sum() for name in ("cat", "dog")]
    assert min(sizes) > 400


def test_names_do_not_cover_small_objects():
    """White squares close to one another: nearly all of each is seen, and every name is drawn."""
    pixels = np.full((240, 320, 3), 60, np.uint8)
    boxes = [[x, y, x + 14, y + 14] for y in (80, 100, 120) for x in (100, 130, 160)]
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = 255
    names = [f"square {i}" for i in range(len(boxes))]
    sheet = drawn([Tile(pixels, boxes, names, np.linspace(0.9, 0.5, len(boxes)))], tile_px=320)
    for (x0, y0, x1, y1), name in zip(boxes, names, strict=True):
        seen = sheet[8 + y0 + 3 : 8 + y1 - 3, 8 + x0 + 3 : 8 + x1 - 3]
        assert (seen == 255).all(-1).mean() > 0.8, name
        assert (sheet == rgb(colour_of(name))).all(-1).sum() > 300, "its tag"


def test_boxes_that_are_none_do_not_break_a_crowded_tile():
    boxes = [[np.nan] * 4, [50, 50, 10, 10], [np.inf, 0, 1, 1], *([[30, 20, 60, 40]] * 12)]
    drawn([Tile(GREY, boxes, ["a long name"] * 15, np.linspace(0.1, 0.9, 15))], tile_px=120)


def test_a_failed_image_is_a_grey_tile_with_its_reason():
    bare, told = (drawn([Tile(None, problem=p)], tile_px=200) for p in ("", "decode_error: truncated JPEG " * 4))
    assert (bare[20:40, 20:40] == 208).all()
    by_caption = drawn([Tile(None, caption="decode_error: truncated JPEG " * 4)], tile_px=200)
    assert np.array_equal(told[8:208, 8:208], by_caption[8:208, 8:208])
    assert (told[8:208, 8:208] < 120).sum() > (bare[8:208, 8:208] < 120).sum() > 0


@pytest.mark.parametrize("name", ["猫", "кошка", "قطة", "🐈 cat", "line\nbreak\0\x1b[31m", "\ud800", "", "x" * 100_000])
def test_no_name_can_break_a_sheet(name: str):
    drawn(
        [Tile(GREY, [[10, 10, 50, 50]], [name], [1.0], caption=name), Tile(None, problem=name)], tile_px=100, title=name
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3000, 2)])
def test_images_of_any_shape_fit(shape: tuple[int, int]):
    sheet = drawn([Tile(np.zeros((*shape, 3), np.uint8), [[0, 0, 1, 1]], ["dot"], [0.5])], tile_px=64)
    assert sheet.shape[1] == 64 + 16


def test_the_same_tiles_give_the_same_bytes():
    tiles = [Tile(GREY, [[1, 2, 30, 40]], ["cat"], [0.123], "a.jpg")] * 3
    assert draw_contact_sheet(tiles) == draw_contact_sheet(tiles)

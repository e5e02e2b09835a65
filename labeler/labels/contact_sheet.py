"""Images with their boxes and names drawn in, many on one PNG."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from labeler import signature
from labeler.digests import digest_of
from labeler.images import headers
from labeler.labels.masks import Mask
from labeler.labels.name_tags import TagPlacer

_PAPER, _INK, _MISSING, _GAP = "#ffffff", "#333333", "#d0d0d0", 8
_MASK_OPACITY = 110  # of 255


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of a contact sheet.

    Attributes:
        pixels: (height, width, 3) uint8 RGB; None for an image that could not be had.
        boxes_xyxy: (n, 4) absolute pixels of the image.
        names: n category names.
        scores: n scores, or empty where there are none (ground truth).
        caption: one line under the image.
        problem: why there is no image; shown in its place, or the caption where this is empty.
        masks: n masks of the image, None where there is none; or empty.
    """

    pixels: npt.NDArray[np.uint8] | None
    boxes_xyxy: Any = ()
    names: Sequence[str] = ()
    scores: Sequence[float] = ()
    caption: str = ""
    problem: str = ""
    masks: Sequence[Mask | None] = ()


def draw_contact_sheet(
    tiles: Sequence[Tile], *, columns: int = 5, tile_px: int = 320, max_tiles: int = 100, title: str = ""
) -> bytes:
    """Return PNG bytes of the first `max_tiles` tiles in rows of `columns`, each in a square of `tile_px` with its
    caption.

    Boxes are drawn from the lowest score up, so that the best lie on top; a category has one color on every sheet.
    The sheet notes how many tiles it lacks, and if there are none.
    """
    shown = tiles[: max(0, max_tiles)]
    columns = max(1, min(columns, len(shown)))
    font = ImageFont.load_default(max(9, tile_px // 26))
    line = _line_height(font)
    left_out = len(tiles) - len(shown)
    header = "  ".join(part for part in (title, f"({left_out} more not shown)" if left_out else "") if part)
    header = header or ("" if shown else "no images")
    top = line + _GAP * 2 if header else _GAP
    pictures = [_draw_tile(tile, tile_px, font) for tile in shown]
    rows = [range(i, min(i + columns, len(shown))) for i in range(0, len(shown), columns)]
    heights = [max(pictures[i].height for i in row) for row in rows]
    below = line + _GAP + _GAP // 2  # the caption's place
    sheet = Image.new("RGB", (columns * (tile_px + _GAP) + _GAP, top + sum(heights) + len(rows) * below), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), _fitted(header, font, sheet.width - 2 * _GAP), _INK, font)
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = _GAP + column * (tile_px + _GAP)
            sheet.paste(pictures[i], (x + (tile_px - pictures[i].width) // 2, y + (height - pictures[i].height) // 2))
            draw.text((x, y + height + 2), _fitted(shown[i].caption, font, tile_px), _INK, font)
        y += height + below
    buffer = io.BytesIO()
    mark = PngInfo()
    mark.add_text(*signature.PNG_TEXT)
    sheet.save(buffer, "PNG", pnginfo=mark)
    return buffer.getvalue()


def describe_sheet(start: bytes) -> str | None:
    """Return what a PNG file is by its first bytes; None if labeler did not write it."""
    mark = "\0".join(signature.PNG_TEXT).encode()
    texts = [start[at + 8 : end - 4] for name, at, end in headers.png_chunks(start) if name == b"tEXt"]
    return "an earlier image" if headers.sniff(start) == "PNG" and mark in texts else None


def colour_of(name: str) -> str:
    """Return the color of a category, "#rrggbb": by its name alone, so equal in every run and on every machine."""
    hue, shade = bytes.fromhex(digest_of(name.encode("utf-8", "replace"), size=2))
    rgb = colorsys.hls_to_rgb(hue / 256, (0.36, 0.5, 0.68)[shade % 3], 0.85)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _draw_tile(tile: Tile, tile_px: int, font: Any) -> Image.Image:
    """Return the image scaled to fit the square, up or down, with its boxes; a gray square where there is no image."""
    if tile.pixels is None:
        return _draw_missing(tile.problem or tile.caption, tile_px, font)
    height, width = tile.pixels.shape[:2]
    scale = tile_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(tile.pixels).resize(size, Image.Resampling.LANCZOS)
    for name, mask in zip(tile.names, tile.masks, strict=False):
        _draw_mask(picture, mask, colour_of(name))
    boxes = np.asarray(tile.boxes_xyxy, np.float64).reshape(-1, 4) * scale
    order = np.argsort(np.asarray(tile.scores), kind="stable") if len(tile.scores) else np.arange(len(boxes))[::-1]
    draw = ImageDraw.Draw(picture)
    line_px = max(2, tile_px // 140)
    for i in order:
        _draw_box(draw, picture.size, boxes[i], colour_of(tile.names[i]), line_px)
    placer, tags = TagPlacer(picture.size, boxes), []
    for i in order[::-1]:  # the best choose their places first
        text = f"{tile.names[i]} {tile.scores[i]:.2f}" if len(tile.scores) else str(tile.names[i])
        text = _fitted(text, font, picture.width - 4)
        place, beside = placer.place(boxes[i], _width(text, font) + 4, _line_height(font))
        tags.append((place, text, colour_of(tile.names[i])))
        if not beside and np.isfinite(boxes[i]).all():
            _draw_leader(draw, place, boxes[i], colour_of(tile.names[i]))
    for place, text, colour in tags:  # over all lines
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        draw.text((place[0] + 2, (place[1] + place[3]) / 2), text, _text_colour(colour), font, anchor="lm")
    return picture


def _draw_missing(reason: str, tile_px: int, font: Any) -> Image.Image:
    picture = Image.new("RGB", (tile_px, tile_px), _MISSING)
    draw = ImageDraw.Draw(picture)
    line = _line_height(font)
    rows = _wrapped(reason or "no image", font, tile_px - 4 * _GAP)[: max(1, tile_px // line - 2)]
    for i, row in enumerate(rows):
        draw.text((tile_px / 2, (tile_px - line * len(rows)) / 2 + i * line), row, _INK, font, anchor="ma")
    return picture


def _draw_mask(picture: Image.Image, mask: Mask | None, colour: str) -> None:
    """The mask's color over what it covers, half transparent."""
    if mask is not None:
        covered = Image.fromarray(mask.decode() * _MASK_OPACITY).resize(picture.size, Image.Resampling.BOX)
        picture.paste(Image.new("RGB", picture.size, colour), mask=covered)


def _draw_box(draw: ImageDraw.ImageDraw, size: tuple[int, int], box: Any, colour: str, line_px: int) -> None:
    """The box, moved inside the tile where it leaves it; nothing for one that is not a box (NaN, inverted)."""
    if not np.isfinite(box).all():
        return
    x0, x1 = np.clip(box[[0, 2]], 0, size[0] - 1)
    y0, y1 = np.clip(box[[1, 3]], 0, size[1] - 1)
    if x1 >= x0 and y1 >= y0:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=line_px)


def _draw_leader(draw: ImageDraw.ImageDraw, tag: Any, box: Any, colour: str) -> None:
    """A line from a tag to its box, which lies further away."""
    start = float(np.clip((box[0] + box[2]) / 2, tag[0], tag[2] - 1)), float(tag[1] if box[3] <= tag[1] else tag[3] - 1)
    end = float(np.clip(start[0], box[0], box[2])), float(np.clip(start[1], box[1], box[3]))
    draw.line((*start, *end), colour, 1)


def _text_colour(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"  # luma of ITU-R BT.601


def _line_height(font: Any) -> int:
    top, bottom = font.getbbox("Ågjy|")[1::2]
    return int(bottom - min(0, top)) + 3


def _width(text: str, font: Any) -> int:
    return int(np.ceil(font.getlength(text)))


def _printable(text: str) -> str:
    """Return one line without control characters; what the font cannot draw becomes its box, which does no harm."""
    return "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode("utf-8")).strip()


def _fitted(text: str, font: Any, width_px: int) -> str:
    """Return the text, its end cut off with dots where it is wider than that."""
    text = _printable(text[:1000])
    if _width(text, font) <= width_px:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if _width(text[:middle] + "...", font) <= width_px else (fits, middle)
    return text[:fits] + "..."


def _wrapped(text: str, font: Any, width_px: int) -> list[str]:
    rows = [""]
    for word in _printable(text[:1000]).split():
        longer = f"{rows[-1]} {word}".strip()
        if _width(longer, font) <= width_px:
            rows[-1] = longer
        else:
            rows.append(_fitted(word, font, width_px))
    return [row for row in rows if row]

"""Images as a page shows them: a JPEG thumbnail with the row's boxes, and masks where the run has them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pycocotools.mask
from PIL import Image

from labeler import images, storage
from labeler.byte_budget import ByteBudget
from labeler.errors import LabelerError
from labeler.labels.detections_column import SIDES
from labeler.review.image_bytes import ImageReader
from labeler.runs import Progress, UnitKey, read_unit_file

THUMBNAIL_PX = 384  # the longer side
CROP_PX = 256  # the longer side of the image of one box
CROPS = 3  # such images of one image: boxes beyond them are cut from its thumbnail
_CROP_GAIN = 1.25  # a crop must have this many times the thumbnail's pixels along a side, or it is excluded
_MARGIN = 0.35  # around a box, of its longer side, on each side
_SMALLEST_REGION_PX = 64  # of the image: a box of a few pixels needs its surroundings to be judged
_MOSTLY = 0.7  # of the image's area: a region that is larger is all of it
_ASPECT = 4 / 3  # of the frames that the page shows images in
MASK_PX = 96  # the longer side of a drawn mask
MAX_BOXES = 120  # of one image, best first; the drawn ones always
_QUALITY = 74
_READS = 8
_AT_ONCE = 32  # thumbnails made before the budget is looked at again
_EMBEDDED_AT_ONCE = 1024  # of images inside Parquet rows, so that each row group is read once: more hardly fit a page

Row = dict[str, Any]  # a row of labels/, as Arrow gives it
Corners = Sequence[float]  # x_min, y_min, x_max, y_max in pixels of the upright image


@dataclass
class Pick:
    """An image that is to be shown, and why.

    Attributes:
        unit, row: where its row lies.
        boxes: places of the boxes it was taken for.
        by_chance: those of them that were drawn at random among the boxes of their category and band of score.
        reasons: the kinds of suspicion, "" never among them.
    """

    unit: UnitKey
    row: int
    boxes: set[int] = field(default_factory=set)
    by_chance: set[int] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)


def read_rows(progress: Progress, places: Iterable[tuple[UnitKey, int]]) -> dict[tuple[UnitKey, int], pa.Table]:
    """The rows at these places (unit, number of a row in it), a table of one row each; each unit is read once."""
    by_unit = [(unit, [row for _, row in group]) for unit, group in groupby(sorted(set(places)), key=itemgetter(0))]

    def load(job: tuple[UnitKey, list[int]]) -> list[pa.Table]:
        unit, rows = job
        table = read_unit_file(progress.unit_uri(*unit))
        return [table.take([row]) for row in rows]

    with ThreadPoolExecutor(_READS) as pool:
        found: dict[tuple[UnitKey, int], pa.Table] = {}
        for (unit, numbers), rows in zip(by_unit, pool.map(load, by_unit), strict=True):
            found.update({(unit, number): row for number, row in zip(numbers, rows, strict=True)})
        return found


def thumbnails(
    reader: ImageReader, rows: Sequence[Row], *, max_pixels: int, boxes: Sequence[Mapping[int, Corners]] = ()
) -> Iterator[dict[str, Any]]:
    """For each row, in order: {jpeg: base64, width, height of the image}, or {problem: why there is none}.

    Some are made ahead; of images inside Parquet rows all that a page can hold, file by file.

    Args:
        boxes: for each row, the boxes {place: corners} that are to have an image of their own. `crops` has those for
            which it shows more than the thumbnail: {place: [x_min, y_min, x_max, y_max of the region, base64]}.
    """

    budget = ByteBudget()

    def make(together: Sequence[int]) -> list[dict[str, Any]]:
        found = reader.read([rows[place] for place in together])
        asked = [boxes[place] if boxes else {} for place in together]
        return [_thumbnail(data, max_pixels, budget, own) for data, own in zip(found, asked, strict=True)]

    at_once = _EMBEDDED_AT_ONCE if any(map(reader.is_embedded, rows)) else _AT_ONCE
    with ThreadPoolExecutor(_READS) as pool:
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            lists = [[start + place for place in one] for one in reader.together(chunk)]
            found: dict[int, dict[str, Any]] = {}
            for places, made in zip(lists, pool.map(make, lists), strict=True):
                found.update(zip(places, made, strict=True))
            yield from (found[start + place] for place in range(len(chunk)))


def _thumbnail(
    data: bytes | LabelerError, max_pixels: int, budget: ByteBudget, boxes: Mapping[int, Corners]
) -> dict[str, Any]:
    try:
        if isinstance(data, LabelerError):
            raise data
        with budget.lease() as reserve:
            pixels = images.decode(data, max_pixels=max_pixels, reserve=reserve).pixels
            found = {"jpeg": _as_jpeg(pixels, THUMBNAIL_PX), "width": pixels.shape[1], "height": pixels.shape[0]}
            crops = _crops(pixels, boxes)
            return found | ({"crops": crops} if crops else {})
    except LabelerError as error:
        return {"problem": storage.redact(str(error))}


def _as_jpeg(pixels: npt.NDArray[np.uint8], longer_px: int) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((longer_px, longer_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _crops(pixels: npt.NDArray[np.uint8], boxes: Mapping[int, Corners]) -> dict[str, list[Any]]:
    height, width = pixels.shape[:2]
    thumbnail = min(1.0, THUMBNAIL_PX / max(width, height))
    regions = {place: region_around(box, width, height) for place, box in boxes.items()}
    smallest = sorted(regions, key=lambda place: _longer(regions[place]))[:CROPS]  # the thumbnail shows least of these
    sharper = [place for place in smallest if min(1.0, CROP_PX / _longer(regions[place])) >= _CROP_GAIN * thumbnail]
    found: dict[str, list[Any]] = {}
    for place in sharper:
        x0, y0, x1, y1 = regions[place]
        found[str(place)] = [*regions[place], _as_jpeg(np.ascontiguousarray(pixels[y0:y1, x0:x1]), CROP_PX)]
    return found


def _longer(region: tuple[int, int, int, int]) -> int:
    return max(region[2] - region[0], region[3] - region[1])


def region_around(box: Corners, width: int, height: int) -> tuple[int, int, int, int]:
    """The part (x_min, y_min, x_max, y_max) of an image that shows a box with a margin, as wide to high as a frame.

    All of the image where it would be most of it. `regionAround` in images.js is the same rule.
    """
    x0, y0, x1, y1 = (min(max(side, 0.0), float(limit)) for side, limit in zip(box, (width, height) * 2, strict=True))
    margin = 2 * _MARGIN * max(x1 - x0, y1 - y0)
    wide, high = (max(side + margin, _SMALLEST_REGION_PX) for side in (x1 - x0, y1 - y0))
    wide, high = max(wide, high * _ASPECT), max(high, wide / _ASPECT)
    wide, high = min(_rounded(wide), width), min(_rounded(high), height)
    if wide * high >= _MOSTLY * width * height:
        return 0, 0, width, height
    left = min(max(_rounded((x0 + x1 - wide) / 2), 0), width - wide)
    top = min(max(_rounded((y0 + y1 - high) / 2), 0), height - high)
    return left, top, left + wide, top + high


def _rounded(value: float) -> int:
    """To the next whole number, halves up: as JavaScript does, and Python's own does not."""
    return math.floor(value + 0.5)


def describe_boxes(detections: Sequence[Mapping[str, Any]], always: Collection[int] = ()) -> dict[str, Any]:
    """The boxes of a row for the page.

    `boxes`: [place in the row, category id, score, x_min, y_min, x_max, y_max], scores as exact as they are stored;
    `masks`: one small RLE or null for each box, excluded when there is none at all; `stored`: how many the row has;
    `unscored`: places of those without a score, excluded when all have one.
    """
    chosen = [i for i in range(len(detections)) if i < MAX_BOXES or i in always]
    boxes = [[i, detections[i]["category_id"], shortest(detections[i]["score"]), *_corners(detections[i])]
             for i in chosen]  # fmt: skip
    found: dict[str, Any] = {"boxes": boxes, "stored": len(detections)}
    if unscored := [i for i in chosen if detections[i].get("unscored")]:
        found["unscored"] = unscored
    masks = [_small_mask(detections[i].get("mask")) for i in chosen]
    return found | ({"masks": masks} if any(masks) else {})


def shortest(score: float) -> float:
    """The shortest decimal that is the same float32: comparing it with 0.30 gives what Arrow and numpy give."""
    return float(str(np.float32(score)))


def _corners(detection: Mapping[str, Any]) -> list[float]:
    corners = [detection[name] for name in SIDES]
    return [round(float(side), 1) if np.isfinite(side) else 0.0 for side in corners]


def _small_mask(mask: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The mask at thumbnail size as COCO's compressed RLE, which is short and quick to unpack."""
    if mask is None:
        return None
    full = pycocotools.mask.decode({"size": list(mask["size"]), "counts": mask["counts"]})
    scale = min(1.0, MASK_PX / max(full.shape))
    size = (max(1, round(full.shape[1] * scale)), max(1, round(full.shape[0] * scale)))
    small = np.asarray(Image.fromarray(full * 255).resize(size, Image.Resampling.BOX)) >= 128
    encoded = pycocotools.mask.encode(np.asfortranarray(small, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}

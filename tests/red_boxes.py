"""Images with one red rectangle per image, some of them EXIF-rotated, labeled by the real labeling code.

Whatever a format does to image and box, the pixels under the box must be red when a consumer opens it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from labeler.labeling.detector import UnitDetector
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.labels.records import Row
from labeler.runs import Run
from labeler.shards import Unit, find_shards, read_units
from tests.inputs import tar_bytes
from tests.label_runs import write_run

RED = (220, 20, 30)
_BACK = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}  # upright -> stored
ORIENTATIONS = (1, 6, 1, 3, 8, 1)  # of images 0, 1, 2, ... again and again
CATEGORIES = [{"id": 3, "name": "red box"}, {"id": 7, "name": "blue box"}]


def picture(seed: int, orientation: int = 1, format: str = "JPEG", *, red: bool = True) -> bytes:
    """A gray 96 x 64 image with a red rectangle (or without), stored rotated by the orientation."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(90, 170, (8, 12, 1), np.uint8), np.ones((8, 8, 3), np.uint8))  # unlike hashes
    x, y = (int(v) for v in rng.integers(4, 40, 2))
    if red:
        pixels[y : y + 20, x : x + 32] = RED
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    if orientation != 1:
        image = image.transpose(_BACK[orientation])
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    image.save(buffer, format, exif=exif, **options)
    return buffer.getvalue()


def red_share(pixels: npt.NDArray[np.uint8], box_xyxy: Sequence[float]) -> float:
    """How much of the box is red; 1 only if box and image fit."""
    x_min, y_min, x_max, y_max = (round(v) for v in box_xyxy)
    inside = pixels[y_min:y_max, x_min:x_max].astype(int)
    return float((np.abs(inside - RED).max(-1) < 60).mean()) if inside.size else 0.0


class RedFinder(UnitDetector):
    """Detects the red rectangle for what it is, and a blue one in the same place with less confidence."""

    description = {"engine": "red", "dtype": "uint8", "device": "cpu"}  # noqa: RUF012

    def prepare(self, image_rgb: Any) -> Any:
        return image_rgb

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
        found = []
        for pixels in batch:
            ys, xs = np.nonzero(np.abs(pixels.astype(int) - RED).max(-1) < 60)
            if not len(ys):
                found.append(Detections.empty())
                continue
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            found.append(Detections.of([box, box], [0.5 + 0.004 * box[0], 0.3], [3, 7]))
        return found


def label_folder(
    folder: Path | str,
    run: Path,
    *,
    keep: Sequence[str] = ("json.group",),
    segmenter: Any = None,
    max_bytes: int = 1 << 20,
    max_images: int = 4,
) -> Run:
    """Read all shards of a folder, label them, write the run."""
    labeler = UnitLabeler(RedFinder(), decode_threads=1, images_per_batch=4, segmenter=segmenter)
    shards = find_shards(str(folder))
    units: dict[tuple[int, int], list[Row]] = {}
    limits = {"max_images": max_images, "max_bytes": max_bytes, "max_image_bytes": 1 << 20}
    for number, shard in enumerate(shards):
        for work in read_units(shard, keep=keep, **limits):
            if isinstance(work, Unit):
                units[number, work.unit] = labeler.label(shard.shard_id, work.items, keep)[0]
    fields = {f"unit.{name}": value for name, value in limits.items()} | {"masks": segmenter and "d1"}
    return write_run(run, units, shards=shards, categories=CATEGORIES, fields=fields, keep=keep)


def red_run(folder: Path, *, shards: int = 2, images: int = 9, segmenter: Any = None) -> Run:
    """Return a run over tars in folder/in: images turned by ORIENTATIONS, every fifth a PNG, groups of three."""
    (folder / "in").mkdir()
    for shard in range(shards):
        members = {}
        for index in range(images):
            seed = shard * images + index
            format = "PNG" if seed % 5 == 4 else "JPEG"
            orientation = ORIENTATIONS[seed % len(ORIENTATIONS)]
            members[f"{index:03d}.{'png' if format == 'PNG' else 'jpg'}"] = picture(seed, orientation, format)
            members[f"{index:03d}.json"] = json.dumps({"group": f"film {seed // 3}"}).encode()
        (folder / "in" / f"part-{shard}.tar").write_bytes(tar_bytes(members))
    return label_folder(folder / "in", folder / "run", segmenter=segmenter)


_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


def mixed_run(folder: Path, *, segmenter: Any = None) -> Run:
    """Return a run over two tars of JPEG, PNG, WebP and BMP in turn: eight images without a box, then eight with one.

    Every unit is one image, so that parts of an export can be as small.
    """
    (folder / "in").mkdir(parents=True)
    for shard in range(2):
        members = {}
        for index in range(8):
            format = list(_SUFFIXES)[index % len(_SUFFIXES)]
            seed = 8 * shard + index
            members[f"{index:03d}.{_SUFFIXES[format]}"] = picture(seed, 1, format, red=shard == 1)
            members[f"{index:03d}.json"] = json.dumps({"group": "odd"} if index % 2 else {}).encode()
        (folder / "in" / f"part-{shard}.tar").write_bytes(tar_bytes(members))
    return label_folder(folder / "in", folder / "run", segmenter=segmenter, max_images=1)

"""The encoded images of an export: read by range, only the selected ones, many at a time; upright for every reader."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image as pillow

from labeler import images, storage
from labeler.byte_budget import DECODE_BYTES, ByteBudget
from labeler.digests import digest_of
from labeler.errors import InputChanged
from labeler.exports.encoded import JPEG_QUALITY
from labeler.exports.selection import ChosenImage
from labeler.exports.uncertain import blank
from labeler.images import copies, headers
from labeler.runs import Snapshot
from labeler.shards import Shard, Unit, read_units

IN_FLIGHT = 32  # requests; single images are bound by latency, not by bandwidth
_ANY_SIZE = 1 << 62  # pixels: what has been labeled was within the run's own limit
# What trainers' readers open without a plugin; other formats are written as PNG.
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
T = TypeVar("T")


@dataclass(frozen=True)
class Pixels:
    """An encoded image whose stored rows are upright, so that boxes fit with or without EXIF."""

    data: bytes
    extension: str


def upright(data: bytes, orientation: int | None, reserve: Callable[[int], None] | None = None) -> Pixels:
    """Return the image as it is if every reader sees in it what the detector saw; else write what the detector saw.

    Readers disagree about EXIF (OpenCV turns some formats, webdataset none, `datasets` all), so no turned image leaves:
    a turned JPEG is written at quality 95 without subsampling. An upright JPEG or PNG whose metadata readers disagree
    about leaves without that. Anything else is written as PNG, with the very pixels that the detector saw.

    Args:
        reserve: as `images.decode` takes it.
    """
    name = headers.sniff(data)
    if name in _EXTENSIONS and orientation in (None, 1):
        same = copies.same_for_every_reader(data, name)
        if same is not None:
            return Pixels(same, _EXTENSIONS[name])
    picture = pillow.fromarray(decoded(data, reserve))
    buffer = io.BytesIO()
    if name == "JPEG" and orientation not in (None, 1):
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return Pixels(buffer.getvalue(), "jpg")
    picture.save(buffer, "PNG")
    return Pixels(buffer.getvalue(), "png")


def decoded(data: bytes, reserve: Callable[[int], None] | None = None) -> npt.NDArray[np.uint8]:
    """(height, width, 3); within the memory budget, and without Pillow's own limit of pixels."""
    return images.decode(data, max_pixels=_ANY_SIZE, reserve=reserve).pixels


class PixelReader:
    """Owns the threads that fetch images.

    An image in a tar, a file or behind a URI is one ranged read of its own bytes. Images in the rows of a Parquet file
    have no address: their file is gone through again, but for row groups of which nothing is selected, if they fit
    into a unit: where units begin in larger ones only their rows say.
    """

    def __init__(self, snapshot: Snapshot, decode_bytes: int = DECODE_BYTES) -> None:
        """
        Args:
            decode_bytes: that images take at most while they are decoded, unless one alone takes more.
        """
        self._run = snapshot.run
        self._shards = {planned.shard_id: planned.shard for planned in snapshot.plan}
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="pixels")
        self._rows: _UnitsForward | None = None
        self._budget = ByteBudget(decode_bytes)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ahead(
        self, units: Iterable[tuple[int, Sequence[ChosenImage], T]]
    ) -> Iterator[tuple[int, list[tuple[ChosenImage, Pixels]], T]]:
        """(unit number in its shard, images with their pixels, whatever came along); one unit is fetched ahead.

        Memory: the selected images of two units, at most `unit.max_bytes` each as the run was cut.
        """
        waiting: deque[tuple[int, Sequence[ChosenImage], T, list[Future[Pixels]]]] = deque()
        for unit, chosen, along in units:
            waiting.append((unit, chosen, along, self._fetch_all(unit, chosen)))
            if len(waiting) > 1:
                yield _ready(*waiting.popleft())
        while waiting:
            yield _ready(*waiting.popleft())

    def _fetch_all(self, unit: int, chosen: Sequence[ChosenImage]) -> list[Future[Pixels]]:
        embedded = [image for image in chosen if image.row["offset"] is None or image.row["length"] is None]
        found = self._from_parquet(unit, embedded) if embedded else {}
        return [
            self._pool.submit(self._checked, image, found[image.row["index"]])
            if image.row["index"] in found
            else self._pool.submit(self._fetch, image)
            for image in chosen
        ]

    def _fetch(self, image: ChosenImage) -> Pixels:
        row = image.row
        if row["offset"] is None:
            raise InputChanged(f"{storage.redact(row['uri'])} has no image {row['image_key']} any more; restore it")
        return self._checked(image, storage.read_bytes(row["uri"], start=row["offset"], length=row["length"]))

    def _checked(self, image: ChosenImage, data: bytes) -> Pixels:
        if digest_of(data) != image.row["digest"]:
            raise InputChanged(
                f"{storage.redact(image.row['uri'])}: the bytes of {image.row['image_key']} are not those that were "
                "labeled: the input was replaced; restore it, or label it in another run"
            )
        with self._budget.lease() as reserve:
            found = upright(data, image.row["orientation"], reserve)
            if image.blanked is None:
                return found
            pixels = decoded(found.data, reserve)  # mostly the first time: what is upright was only copied
            painted = blank(pixels, found.extension, image.blanked.boxes, image.detections.boxes)
            return Pixels(painted, found.extension)

    def _from_parquet(self, unit: int, chosen: Sequence[ChosenImage]) -> dict[int, bytes]:
        shard = self._shards[chosen[0].row["shard_id"]]
        if self._rows is None or self._rows.shard is not shard or not self._rows.comes(unit):
            fields = self._run.manifest.fingerprint_fields
            limits = {name: fields[f"unit.{name}"] for name in ("max_images", "max_bytes", "max_image_bytes")}
            self._rows = _UnitsForward(shard, image_column=fields.get("input.image_column"), **limits)
        found = self._rows.read(unit)
        if found is None:
            uri = storage.redact(shard.uri)
            raise InputChanged(f"{uri} ends before unit {unit}: it is not the file that was labeled")
        wanted = {image.row["index"] for image in chosen}
        return {item.index: item.data for item in found.items if item.index in wanted and item.data is not None}


class _UnitsForward:
    """One shard's units, asked for in order: the file is gone through once, and what nobody asks for is skipped."""

    def __init__(self, shard: Shard, **options: Any) -> None:
        self.shard = shard
        self._next = 0
        self._units = read_units(shard, skip=lambda number: number < self._next, **options)

    def comes(self, unit: int) -> bool:
        """Return whether the unit is still ahead."""
        return unit >= self._next

    def read(self, unit: int) -> Unit | None:
        """The unit; None where the shard has none of that number."""
        self._next = unit
        for work in self._units:
            if isinstance(work, Unit) and work.unit == unit:
                self._next = unit + 1
                return work
        return None


def _ready(
    unit: int, chosen: Sequence[ChosenImage], along: T, futures: Sequence[Future[Pixels]]
) -> tuple[int, list[tuple[ChosenImage, Pixels]], T]:
    return unit, [(image, future.result()) for image, future in zip(chosen, futures, strict=True)], along

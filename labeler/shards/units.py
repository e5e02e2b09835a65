"""Shards, items and units: what is planned, what is read, and where a shard is cut."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from labeler.labels.detections import Detections

Format = Literal["webdataset", "images", "parquet"]


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a group of image files, frozen at planning; `key` is its path below the input's folder."""

    key: str
    uri: str
    size: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Shard:
    """One input object: a tar, a Parquet file, or a frozen group of image files.

    Attributes:
        shard_id: 6-digit position in the plan.
        uri: of the tar or Parquet file; for a group the folder its members' keys are relative to.
        size: bytes; for a group the sum of its members.
        etag: None for a group, whose members have their own.
        max_images: only the first that many of its images are in the run.
        members: of a group of image files, else None.
        name: unique in the plan; the file names of its images begin with it. None for a group, and in plans of
            earlier versions.
    """

    shard_id: str
    uri: str
    size: int | None
    etag: str | None
    format: Format
    max_images: int | None = None
    members: Sequence[Member] | None = None
    name: str | None = None


@dataclass(frozen=True)
class Item:
    """One input image, still encoded; or why it cannot be read.

    Attributes:
        key: tar member name, path below the input, URI, or Parquet path or row number.
        index: 0-based in the shard.
        uri: of the object that holds the bytes.
        offset, length: where in that object the bytes lie; None where they cannot be addressed.
        data: the encoded image; None when `error` is set.
        error: a short stable reason; the row's status is then read_error.
        kept: the sidecars or columns asked for, by the names they were asked for.
        found: what another run found in it; it is not detected again.
        removed: somebody asked to have the image forgotten: only its place is left.
        asked: ids of the categories that are looked for in it, ascending; None for all.
    """

    key: str
    index: int
    uri: str
    offset: int | None
    length: int | None
    data: bytes | None
    error: str | None = None
    kept: Mapping[str, str | None] = field(default_factory=dict)
    removed: bool = False
    found: Detections | None = None
    asked: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Unit:
    """A contiguous range of images of one shard; at least one item."""

    shard_id: str
    unit: int
    items: tuple[Item, ...]


@dataclass(frozen=True)
class ShardEnd:
    """The end of a shard.

    Attributes:
        units, images: how many the whole shard has, units that were not asked for included.
        skipped: what it holds beside images, by extension (`shards.skipped`).
    """

    shard_id: str
    units: int
    images: int
    skipped: Mapping[str, int] = field(default_factory=dict)


class Placed(NamedTuple):
    """An image and the unit it belongs to; `item` is None when that unit is skipped."""

    unit: int
    item: Item | None


Skip = Callable[[int], bool]


class UnitCutter:
    """Numbers units: one closes when it has `max_images` items, or when the next would exceed `max_bytes`."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        if max_images < 1 or max_bytes < 1:
            raise ValueError(f"a unit needs room for an image, got max_images={max_images}, max_bytes={max_bytes}")
        self._max_images, self._max_bytes = max_images, max_bytes
        self._unit = 0
        self._images = self._bytes = 0

    def place(self, length: int) -> int:
        """Return the unit of the next image, which has `length` bytes."""
        if self._images and (self._images >= self._max_images or self._bytes + length > self._max_bytes):
            self.close()
        self._images += 1
        self._bytes += length
        return self._unit

    def close(self) -> None:
        """The next image opens a new unit."""
        if self._images:
            self._unit += 1
            self._images = self._bytes = 0

    @property
    def next_units(self) -> tuple[int, ...]:
        """Return where the next image may go, whatever its length."""
        return (self._unit, self._unit + 1) if self._images else (self._unit,)


def assemble(
    shard: Shard, placed: Generator[Placed, None, None], skipped: Mapping[str, int]
) -> Iterator[Unit | ShardEnd]:
    """Yield the units that hold items, in order, and the shard's end.

    Args:
        placed: the shard's images; closed at the end, or when this is, so that its streams and threads end.
        skipped: the counts for the shard's end, complete when `placed` is at its end.
    """
    items: list[Item] = []
    current = units = images = 0
    with closing(placed):
        for unit, item in islice(placed, shard.max_images):
            if unit != current and items:
                yield Unit(shard.shard_id, current, tuple(items))
                items = []
            images += 1
            current, units = unit, unit + 1
            if item is not None:
                items.append(item)
        if items:
            yield Unit(shard.shard_id, current, tuple(items))
        yield ShardEnd(shard.shard_id, units, images, dict(skipped))


def too_large(length: int, max_bytes: int) -> str:
    """Return the error of an image that is not even read."""
    return f"member of {length} bytes is larger than {max_bytes}"

"""Stream the units out of a shard, whatever its format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice

from labeler.shards.image_files import read_group
from labeler.shards.parquet import count_rows, read_parquet
from labeler.shards.units import Shard, ShardEnd, Skip, Unit, UnitCutter, assemble
from labeler.shards.webdataset import read_tar

READER_VERSION = 3  # changes whenever the same bytes would give other items or other units

MAX_IMAGES = 256
MAX_BYTES = 64 << 20
MAX_IMAGE_BYTES = 256 << 20


def read_units(
    shard: Shard,
    *,
    max_images: int = MAX_IMAGES,
    max_bytes: int = MAX_BYTES,
    keep: Sequence[str] = (),
    skip: Skip = lambda unit: False,
    image_column: str | None = None,
    max_image_bytes: int = MAX_IMAGE_BYTES,
) -> Iterator[Unit | ShardEnd]:
    """Return the shard's units in order, without those that `skip` names, and last its end.

    Deterministic: boundaries and items depend on the shard's bytes and the arguments, not on what is skipped.
    Skipped units are not downloaded where that can be avoided.

    Args:
        max_images, max_bytes: a unit closes when it has that many images, or when the next would make it larger
            (a single image may be).
        keep: sidecars of a tar by extension ("txt", "json", "json.caption" for one field), columns of a Parquet file.
        image_column: of a Parquet file; None finds it.
        max_image_bytes: a larger image becomes an item with an error, unread.

    Raises:
        InputChanged: the shard, or a file of its group, is not the one that was planned.
        StorageError: storage does not answer.
        Refused: a Parquet file has no image column.
    """
    cutter = UnitCutter(max_images, max_bytes)
    skipped = Counter[str]()
    if shard.format == "webdataset":
        placed = read_tar(shard, cutter, keep=keep, skip=skip, max_image_bytes=max_image_bytes, counts=skipped)
    elif shard.format == "images":
        placed = read_group(shard, cutter, keep=keep, skip=skip, max_image_bytes=max_image_bytes)
    else:
        placed = read_parquet(
            shard,
            cutter,
            keep=keep,
            skip=skip,
            max_image_bytes=max_image_bytes,
            max_images=max_images,
            max_bytes=max_bytes,
            image_column=image_column,
        )
    return assemble(shard, placed, skipped)


def count_images(shard: Shard) -> int | None:
    """Return how many images the shard has (of those in the run), where that is cheap: groups, Parquet footers; else
    None.
    """
    if shard.format == "images":
        images = None if shard.members is None else len(shard.members)
    elif shard.format == "parquet":
        images = count_rows(shard)
    else:
        images = None
    return images if images is None or shard.max_images is None else min(images, shard.max_images)


def count_tar_images(shard: Shard, at_most: int) -> int:
    """Return images of a tar, counted by walking its headers, up to `at_most`."""
    cutter = UnitCutter(MAX_IMAGES, MAX_BYTES)
    placed = read_tar(shard, cutter, keep=(), skip=lambda unit: True, max_image_bytes=MAX_IMAGE_BYTES)
    with closing(placed) as images:
        return sum(1 for _ in islice(images, at_most))

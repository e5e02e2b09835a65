"""Files of an input that are looked into before they are planned: images without an extension, Parquet's columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from labeler import storage
from labeler.ahead import IN_FLIGHT
from labeler.errors import Refused
from labeler.shards import skipped
from labeler.shards.image_column import NoImageColumn
from labeler.shards.names import SNIFFED_BYTES, looks_like_image
from labeler.shards.parquet import image_column_problem
from labeler.shards.units import Shard
from labeler.storage import ObjectInfo
from labeler.storage.failures import DENIED, MISSING

MOST = 10_000  # one request per file, while the run is planned


def images_among(files: Sequence[ObjectInfo]) -> set[str]:
    """Return the URIs of those that begin like an image. Beyond MOST files none is looked at.

    Raises:
        StorageError: if storage does not answer; a file that is gone or forbidden is not an image.
    """
    if len(files) > MOST:
        return set()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="sniff") as pool:
        found = pool.map(_begins_like_image, files)
        return {info.uri for info, is_image in zip(files, found, strict=True) if is_image}


def _begins_like_image(info: ObjectInfo) -> bool:
    length = min(SNIFFED_BYTES, info.size or 0)
    try:
        return looks_like_image(storage.read_bytes(info.uri, length=length))
    except storage.Unreadable as error:
        if error.reason not in (MISSING, DENIED):
            raise
        return False


def with_images(shards: Sequence[Shard], image_column: str | None, counts: Counter[str], *, skip: bool) -> list[Shard]:
    """Return the Parquet files that have an image column.

    Args:
        counts: gets the number of those without one.
        skip: continue without them.

    Raises:
        Refused: if there are some and they are not to be skipped, or if it is not clear which column of a file is
            meant; `problems` has a line for each.
    """
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="footers") as pool:  # one request per shard
        problems = list(pool.map(lambda shard: image_column_problem(shard, image_column), shards))
    missing = [problem for problem in problems if isinstance(problem, NoImageColumn)]
    grave = [problem for problem in problems if problem is not None and not (skip and problem in missing)]
    if len(grave) == 1:
        raise grave[0]
    if grave:
        raise Refused(
            f"{len(grave)} of {len(shards)} Parquet files cannot be labeled; correct input.uri or input.image_column, "
            "or set input.skip_without_images=true to omit files without an image column",
            [str(problem) for problem in grave],
        )
    if missing:
        counts[skipped.WITHOUT_IMAGES] += len(missing)
    return [shard for shard, problem in zip(shards, problems, strict=True) if problem is None]

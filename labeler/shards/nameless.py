"""Files without an extension: images by their first bytes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from labeler import storage
from labeler.shards.fetching import IN_FLIGHT
from labeler.shards.names import SNIFFED_BYTES, looks_like_image
from labeler.storage import ObjectInfo
from labeler.storage.failures import DENIED, MISSING

MOST = 10_000  # a request each, while the run is planned


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

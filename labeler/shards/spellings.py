"""Keep one path of each local file that links lead to in several ways."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from functools import cache

from labeler import storage


def repeated(uris: Iterable[str], kept: Collection[str]) -> set[str]:
    """The URIs of local files whose folder is in the list under another path, through a link to that folder.

    Of several paths the one in `kept` stays, else the one without links, else the first in order. A link to a single
    file stays: it may be the only one of its names that says that it is an image.

    Args:
        kept: URIs that are never repetitions: named in full, or planned before.
    """
    real_folder = cache(os.path.realpath)
    first: dict[tuple[str, str], tuple[bool, bool, str]] = {}
    found = set()
    for uri in uris:
        if not storage.is_local(uri):
            continue
        folder, name = os.path.split(uri.removeprefix("file://"))
        real = real_folder(folder)
        rank = (uri not in kept, folder != real, uri)
        before = first.setdefault((real, name), rank)
        if before != rank:
            first[real, name] = min(before, rank)
            found.add(max(before, rank)[2])
    return found.difference(kept)

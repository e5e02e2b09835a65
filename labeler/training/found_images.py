"""Stored images and the names that annotations have for them: each stored image belongs to one name at most."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from labeler import storage
from labeler.shards.names import is_image
from labeler.shards.tar_members import walk
from labeler.training.stored import Location

log = logging.getLogger(__name__)


def find_images(uri: str) -> dict[str, Location]:
    """Return every image under a folder, or in a tar, by its path below it ("a/b.jpg", "a/shard.tar/member.jpg")."""
    single = storage.head(uri) if uri.endswith(".tar") else None
    objects = [single] if single else list(storage.list_objects(uri, on_skipped=_warn))
    found: dict[str, Location] = {}
    for info in objects:
        path = storage.basename(info.uri) if single else info.uri.removeprefix(uri).lstrip("/")
        if info.uri.endswith(".tar"):
            with storage.open_stream(info.uri) as stream:
                for member in walk(stream):
                    if member.state == "file" and is_image(member.name):
                        found.setdefault(f"{path}/{member.name}", Location(info.uri, member.offset, member.length))
        elif is_image(info.uri):
            found[path] = Location(info.uri)
    return found


def locate(names: Sequence[str], found: Mapping[str, Location]) -> list[Location | None]:
    """Return where the image of each name is; None if it is missing.

    An image is known by its whole path; else by the end of it ("shard.tar/member.jpg"); else by its last part, if
    neither two names nor two stored images end so. An image that one name has is not given to another: two folders
    often have images of the same last name, and a missing one must not become its namesake.
    """
    by_last: dict[str, list[str]] = defaultdict(list)
    for path in found:
        by_last[storage.basename(path)].append(path)
    wanted = Counter(storage.basename(name) for name in names)
    taken = {name for name in names if name in found}
    places = [found.get(name) for name in names]
    for row in sorted(range(len(names)), key=lambda row: -names[row].count("/")):  # the most precise first
        if places[row] is not None:
            continue
        last = storage.basename(names[row])
        paths = [path for path in by_last[last] if path.endswith(f"/{names[row]}")]
        if not paths and wanted[last] == 1:
            paths = by_last[last]
        if len(paths) == 1 and paths[0] not in taken:
            taken.add(paths[0])
            places[row] = found[paths[0]]
    return places


def _warn(uri: str, reason: str) -> None:
    log.warning("skipped %s: %s", storage.printable(storage.redact(uri)), reason)

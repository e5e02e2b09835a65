"""Stored images and the names that annotations have for them: each stored image belongs to one name at most."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from labeler import storage
from labeler.file_names import NameIndex, comparable, last_part
from labeler.shards.names import is_image
from labeler.shards.tar_members import walk
from labeler.training.stored_images import Location

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


def locate(names: Sequence[str], found: Mapping[str, Location]) -> list[Location | tuple[str, ...]]:
    """Return where the image of each name is; or else the stored names that it could be, () if there are none.

    An image is known by its whole path, in any spelling; else by the end of it ("shard.tar/member.jpg"); else by its
    last part, if neither two names nor two stored images end so. An image that one name has is not given to another:
    two folders often have images of the same last name, and a missing one must not become its namesake.
    """
    places: list[Location | tuple[str, ...]] = [()] * len(names)
    taken: set[str] = set()

    def take(row: int, paths: Sequence[str]) -> None:
        if len(paths) == 1 and paths[0] not in taken:
            taken.add(paths[0])
            places[row] = found[paths[0]]
        elif len(paths) > 1:
            places[row] = tuple(paths)

    stored, whole = list(found), NameIndex(found)
    for row in sorted(range(len(names)), key=lambda row: names[row] not in whole):  # the very same spelling first
        take(row, [stored[place] for place in whole.find(names[row])])
    ends, wanted = _by_end(stored), Counter(comparable(last_part(name)) for name in names)
    left = [row for row, place in enumerate(places) if place == ()]
    for row in sorted(left, key=lambda row: -comparable(names[row]).count("/")):  # the most precise first
        alike = comparable(names[row])
        last = last_part(alike)
        paths = [path for path in ends[last] if comparable(path).endswith(f"/{alike}")]
        take(row, paths or (ends[last] if wanted[last] == 1 and len(ends[last]) == 1 else []))
    return places


def _by_end(paths: Sequence[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[comparable(last_part(path))].append(path)
    return found


def _warn(uri: str, reason: str) -> None:
    log.warning("skipped %s: %s", storage.printable(storage.redact(uri)), reason)

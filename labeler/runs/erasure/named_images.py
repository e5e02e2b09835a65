"""Which images of a run a list of names means: by file name, key or digest, in the very spelling, else in any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from labeler.errors import Refused
from labeler.file_names import comparable

Place = TypeVar("Place")


@dataclass
class NamedImage:
    """An image that may be meant; `digests` are those that any run's row has of it: none if it could not be read."""

    key: str
    file_name: str
    digests: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Named(Generic[Place]):
    """The images that a list of names means.

    Attributes:
        images: those that are meant.
        unknown: names that no image has.
        in_any_spelling: file names of images that are meant by name, and that no other image has in another spelling.
    """

    images: dict[Place, NamedImage]
    unknown: list[str]
    in_any_spelling: set[str]


def name_images(candidates: Mapping[Place, NamedImage], names: Sequence[str]) -> Named[Place]:
    """Return the images that are meant, of all that have any of the names in any spelling.

    Raises:
        Refused: an image key alone, or a name in another spelling, is that of several images.
    """
    ways = _Ways.of(candidates)
    exactly = {place for name in names for place in ways.exact.get(name, ())}
    meant, by_name = set(exactly), set[Place]()
    unknown, doubled, unclear = [], [], []
    for name in names:
        by_key = [place for place in ways.keys.get(name, ()) if place not in exactly]
        if len(by_key) > 1:
            doubled.append(f"{name}: {len(by_key):,} images")
        found = {*by_key, *(place for place in ways.exact.get(name, ()) if name not in candidates[place].digests)}
        if not found and name not in ways.exact and name not in ways.keys:
            found = set(ways.alike.get(comparable(name), ()))
            file_names = sorted({candidates[place].file_name for place in found})
            if len(file_names) > 1:
                unclear.append(f"{name!a}: {' or '.join(map(ascii, file_names))}")
            elif not found:
                unknown.append(name)
        meant |= found
        by_name |= found
    _refuse(doubled, unclear)
    images = {place: image for place, image in candidates.items() if place in meant}
    others = {comparable(image.file_name) for place, image in candidates.items() if place not in meant}
    file_names_meant = {candidates[place].file_name for place in by_name}
    return Named(images, unknown, {name for name in file_names_meant if comparable(name) not in others})


def _refuse(doubled: list[str], unclear: list[str]) -> None:
    if doubled:
        raise Refused(
            "an image key names several images; give the file name with its shard, or the image's digest", doubled
        )
    if unclear:
        raise Refused(
            "a name could be that of several images, whose names differ only in how they are spelled; give it as the "
            "run does, or the image's digest",
            unclear,
        )


@dataclass(frozen=True)
class _Ways(Generic[Place]):
    """Places of images by file name or digest, by key, and by any spelling of file name or key."""

    exact: dict[str, list[Place]]
    keys: dict[str, list[Place]]
    alike: dict[str, list[Place]]

    @staticmethod
    def of(candidates: Mapping[Place, NamedImage]) -> _Ways[Place]:
        ways = _Ways[Place]({}, {}, {})
        for place, image in candidates.items():
            for name in (image.file_name, *image.digests):
                ways.exact.setdefault(name, []).append(place)
            ways.keys.setdefault(image.key, []).append(place)
            for name in {comparable(image.file_name), comparable(image.key)}:
                ways.alike.setdefault(name, []).append(place)
        return ways

"""Phrases that are images: a crop of an object in the place of words for it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labeler import images, storage
from labeler.digests import digest_of
from labeler.errors import LabelerError

MAX_BYTES = 8 * 2**20  # it goes with the plan to every worker, and into the run's folder
_KEYS = ("image", "data")


@dataclass(frozen=True)
class ObjectCrop:
    """An image of one object, cut out so that the object fills it.

    Attributes:
        name: the path or URL it was read from, for messages.
        data: the file's bytes; empty while they are not read yet.
    """

    name: str = field(compare=False)
    data: bytes = b""

    @property
    def digest(self) -> str:
        """blake2b-128, hex, of the file's bytes."""
        return digest_of(self.data)

    def to_json(self) -> dict[str, str]:
        """Return plain data with the bytes, so that a run needs the file no more; itself what a vocabulary file may
        say.
        """
        return {"image": self.name, "data": base64.b64encode(self.data).decode()}


def crops_of(values: Iterable[Any], me: str, problems: list[str]) -> tuple[ObjectCrop, ...]:
    """Return the crops of a category's `phrases`, {image: path} each, or {image, data} with the bytes in base64.

    Args:
        me: the category, for problems.
    """
    crops = []
    for value in values:
        name, data = value.get("image"), value.get("data", "")
        if not isinstance(name, str) or not name.strip() or not isinstance(data, str) or set(value) - set(_KEYS):
            problems.append(f"{me}: a phrase is text, or {{image: path or URL}} for a crop")
            continue
        try:
            crops.append(ObjectCrop(name.strip(), base64.b64decode(data, validate=True)))
        except (binascii.Error, ValueError):
            problems.append(f"{me}: the data of image {_shown(name)} is not base64")
    return tuple(crops)


def read_crop(crop: ObjectCrop, base: str) -> tuple[ObjectCrop, str | None]:
    """Return (the crop with its bytes, what is wrong with it if anything is).

    Args:
        base: folder or URL that a relative path starts from; "" for the working folder.
    """
    try:
        data = crop.data or _read(_place(crop.name, base))
        if len(data) > MAX_BYTES:
            return crop, f"image {_shown(crop.name)} is larger than {MAX_BYTES} bytes; cut the object out of it"
        images.decode(data)
    except images.ImageError as error:
        return crop, f"image {_shown(crop.name)} is not an image that can be read: {error}"
    except (LabelerError, OSError, ValueError) as error:
        return crop, f"image {_shown(crop.name)}: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}"
    return ObjectCrop(crop.name, data), None


def fingerprinted(phrases: Iterable[Any]) -> list[Any]:
    """Return a category's phrases as plain data, with a crop's digest in the place of its bytes and its name."""
    return [
        {"image": digest_of(base64.b64decode(phrase["data"]))} if isinstance(phrase, Mapping) else phrase
        for phrase in phrases
    ]


def _place(name: str, base: str) -> str:
    if "://" in name or Path(name).is_absolute() or not base:
        return name
    return storage.join(base, name) if "://" in base else str(Path(base) / name)


def _read(place: str) -> bytes:
    if "://" not in place:
        return storage.read_regular(place, MAX_BYTES + 1)
    with storage.open_stream(place) as stream:
        return stream.read(MAX_BYTES + 1)


def _shown(name: str) -> str:
    return json.dumps(storage.printable(storage.redact(name)), ensure_ascii=False)

"""Names of unfinished files: what they will be, and which process writes them."""

from __future__ import annotations

import os
import re
import time
import uuid
from dataclasses import dataclass

from labeler import owners
from labeler.digests import digest_of

OLD_S = 24 * 3600.0  # nothing is written for that long without a byte: an unfinished file of a process out of sight
_LOCAL = re.compile(rf"([0-9a-f]{{16}})-([0-9a-f]{{16}})-({owners.PATTERN})-[0-9a-f]{{32}}(?:-again)?")
_BESIDE = re.compile(rf"\.tmp-(.+?)-(?:({owners.PATTERN})-)?[0-9a-f]{{32}}")


@dataclass(frozen=True)
class Unfinished:
    """The parts of an unfinished file's name.

    Attributes:
        folder: mark of the folder that it will be in; None if its name does not say.
        name: mark of the name that it will have, or that name.
        owner: the process that writes it, see `labeler.owners`.
    """

    folder: str | None
    name: str
    owner: str | None

    def is_abandoned(self, modified: float | None) -> bool:
        """Return whether its process has ended; of one out of sight, whether nothing was written for a day.

        Args:
            modified: seconds since 1970; None if unknown.
        """
        gone = owners.is_gone(self.owner) if self.owner else None
        if gone is not None:
            return gone
        return modified is not None and time.time() - modified > OLD_S


def local_name(scratch: str, path: str) -> str:
    """Return a new name, in the folder `scratch`, for what will be the file `path`."""
    folder, name = os.path.split(path)
    return f"{folder_mark(scratch, folder)}-{mark(name)}-{owners.owner()}-{uuid.uuid4().hex}"


def parse_local(name: str) -> Unfinished | None:
    found = _LOCAL.fullmatch(name)
    return Unfinished(found[1], found[2], found[3]) if found else None


def name_beside(name: str) -> str:
    """Return a new name, in the same folder, for what will be the file `name`."""
    return f".tmp-{name}-{owners.owner()}-{uuid.uuid4().hex}"


def parse_beside(name: str) -> Unfinished | None:
    found = _BESIDE.fullmatch(name)
    return Unfinished(None, found[1], found[2]) if found else None


def folder_mark(scratch: str, folder: str) -> str:
    """Return the mark of a folder; the same wherever the disk is mounted."""
    return mark(os.path.relpath(folder, os.path.dirname(scratch)))


def mark(text: str) -> str:
    return digest_of(os.fsencode(text), size=8)

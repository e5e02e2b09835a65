"""File names as people mean them: one name may be written in several ways, which are equal where names are compared.

Only comparison is about this: what is stored keeps its spelling.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def comparable(name: str) -> str:
    """Return the one spelling of all that are meant as this name: composed characters, and slashes between folders.

    macOS decomposes "é" into two characters in file names; Windows writes backslashes.
    """
    if name.isascii():
        return name.replace("\\", "/")
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def last_part(name: str) -> str:
    """Return a file's name without its folders, in the spelling it has."""
    return name[max(name.rfind("/"), name.rfind("\\")) + 1 :]


class NameIndex:
    """An index of a list of names by any spelling."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._alike: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            self._exact.setdefault(name, []).append(position)
            self._alike.setdefault(comparable(name), []).append(position)

    def __contains__(self, name: str) -> bool:
        """Return whether the name is there in this very spelling."""
        return name in self._exact

    def find(self, name: str) -> list[int]:
        """Return the positions of the names in this very spelling, or, if there are none, of those meant alike."""
        return self._exact.get(name) or self._alike.get(comparable(name), [])

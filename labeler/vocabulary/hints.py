"""What in a vocabulary is probably not meant: it is read as written, and warned about."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

_NUMBERED = re.compile(r"\d+\s*(?::|[.)](?=\s))\s*\S")
_BULLET = re.compile(r"[-*\u2022]\s+\S")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"


def find_in_line(line: str) -> str | None:
    """Return what is suspicious about a category written as plain text; None for nothing."""
    if "," in line:
        return "has a comma, which becomes part of the name; write one category per line or list item"
    if _NUMBERED.match(line):
        return "begins with a number, which becomes part of the name; write the name alone, ids count from 1"
    if _BULLET.match(line):
        return "begins with a bullet, which becomes part of the name; write the name alone"
    if len(line) > 1 and line[0] in _QUOTES and line[-1] in _QUOTES:
        return "is in quotes, which become part of the name; leave them out"
    return None


def find_invisible(text: str) -> str | None:
    """Return which invisible characters a name has inside (byte order marks, zero-width spaces, ...); None for none."""
    found = sorted({character for character in text if unicodedata.category(character) == "Cf"})
    if not found:
        return None
    return f"has invisible characters inside ({', '.join(f'U+{ord(c):04X}' for c in found)}); remove them"


def find_roots(categories: Iterable[Any], annotations: Iterable[Any]) -> set[int]:
    """Return the positions of categories that nothing is annotated as and that are the supercategory of another.

    Roboflow puts such a root before the real categories of its COCO files.
    """
    listed = [item if isinstance(item, Mapping) else {} for item in categories]
    used = {entry.get("category_id") for entry in annotations if isinstance(entry, Mapping)
            if isinstance(entry.get("category_id"), int)}  # fmt: skip
    above = [item.get("supercategory") for item in listed]
    return {
        place
        for place, item in enumerate(listed)
        if isinstance(item.get("name"), str)
        and item.get("id") not in used
        and any(name == item["name"] for other, name in enumerate(above) if other != place)
    }

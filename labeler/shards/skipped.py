"""Counts of what an input holds beside its images, by extension: "jxl 120, no extension 3"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from labeler import plain_json
from labeler.digests import canonical_json

NO_EXTENSION = "no extension"
HIDDEN = "hidden"
UNREADABLE = "unreadable"
WITHOUT_IMAGES = "Parquet without images"
OTHER = "other"

_MOST_KINDS = 100  # of one shard: names are a stranger's, and the counts are kept for every shard
_MOST_CHARACTERS = 16  # beyond that it is part of a name, and no extension
_SHOWN = 8


def count(skipped: Counter[str], name: str) -> None:
    """Count one file or tar member by the extension of its name."""
    file_name = name.strip().rpartition("/")[2]
    stem, _, extension = file_name.rpartition(".")
    kind = extension.lower() if stem.strip(".") else NO_EXTENSION
    if not kind or len(kind) > _MOST_CHARACTERS or not kind.isprintable():
        kind = OTHER
    if kind not in skipped and len(skipped) >= _MOST_KINDS:
        kind = OTHER
    skipped[kind] += 1


def describe(skipped: Mapping[str, int]) -> str:
    """Return one line, the most frequent first; "" where there is nothing."""
    kinds = sorted(skipped, key=lambda kind: (-skipped[kind], kind))
    shown = [f"{kind} {skipped[kind]:,}" for kind in kinds[:_SHOWN]]
    rest = sum(skipped[kind] for kind in kinds[_SHOWN:])
    return ", ".join([*shown, f"others {rest:,}"] if rest else shown)


def to_bytes(skipped: Mapping[str, int]) -> bytes:
    """Equal counts as equal bytes; nothing as b""."""
    return canonical_json(skipped) if skipped else b""


def from_bytes(data: bytes) -> Counter[str]:
    """Read what `to_bytes` wrote.

    Raises:
        ValueError: if it is something else.
    """
    found = plain_json.parse(data) if data else {}
    if not isinstance(found, dict) or not all(isinstance(n, int) for n in found.values()):
        raise ValueError("not counts by extension")
    return Counter(found)

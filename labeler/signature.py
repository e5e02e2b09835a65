"""The marks by which labeler knows its own pages and pictures again, so that it replaces no other file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

NAME = "labeler"
HTML_TAG = f'<meta name="generator" content="{NAME}">'
PNG_TEXT = "Software", NAME  # keyword and text of a tEXt chunk
HEAD_BYTES = 4096  # each mark is within these first bytes of its file

_COMPARISON = re.compile(rb'\{"schema_version":\d+,"runs":\[\{"id":"\w+","uri":')
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def describe_page(start: bytes) -> str | None:
    """Return what an HTML file is by its first bytes; None if labeler did not write it."""
    return "an earlier page" if HTML_TAG.encode() in start[:HEAD_BYTES] else None


def describe_comparison(start: bytes) -> str | None:
    """Return what the JSON file beside a comparison is by its first bytes; None if labeler did not write it."""
    return "an earlier comparison" if _COMPARISON.match(start) else None


def describe_picture(start: bytes) -> str | None:
    """Return what a PNG file is by its first bytes; None if labeler did not write it."""
    mark = "\0".join(PNG_TEXT).encode()
    return "an earlier picture" if (b"tEXt", mark) in _png_chunks(start) else None


def _png_chunks(start: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, data) of the chunks in the first bytes of a PNG file; the last one can be cut off."""
    if not start.startswith(_PNG_MAGIC):
        return
    place = len(_PNG_MAGIC)
    while place + 8 <= len(start):
        length, kind = struct.unpack_from(">I4s", start, place)
        yield kind, start[place + 8 : place + 8 + length]
        place += 12 + length

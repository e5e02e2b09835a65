"""The marks by which labeler knows its own pages and images again, so that it replaces no other file."""

from __future__ import annotations

import re

NAME = "labeler"
HTML_TAG = f'<meta name="generator" content="{NAME}">'
PNG_TEXT = "Software", NAME  # keyword and text of a tEXt chunk
HEAD_BYTES = 4096  # each mark is within these first bytes of its file

_COMPARISON = re.compile(rb'\{"schema_version":\d+,"runs":\[\{"id":"\w+","uri":')


def describe_page(start: bytes) -> str | None:
    """Return what an HTML file is by its first bytes; None if labeler did not write it."""
    return "an earlier page" if HTML_TAG.encode() in start[:HEAD_BYTES] else None


def describe_comparison(start: bytes) -> str | None:
    """Return what the JSON file beside a comparison is by its first bytes; None if labeler did not write it."""
    return "an earlier comparison" if _COMPARISON.match(start) else None

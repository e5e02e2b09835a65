"""Images inside text: base64, and `data:` URIs (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from labeler.images.headers import sniff

MAX_ADDRESS = 8192  # characters; a longer text in a column of addresses can only be an image
NOT_BASE64 = "not valid base64"
_LEAST = 64  # characters; a shorter base64 text could be a name, and no image is so small
_HEAD = 64
_WHITE_SPACE = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")


def holds_image(text: str) -> bool:
    """Return whether a text is an image itself, and not the address of one."""
    if text[:5].lower() == "data:" or len(text) > MAX_ADDRESS:
        return True
    if len(text) < _LEAST:
        return False
    try:
        return sniff(_decoded(_WHITE_SPACE.sub("", text[: 2 * _HEAD])[:_HEAD])) is not None
    except ValueError:
        return False


def image_of(text: str) -> bytes:
    """Return the bytes that a text holds.

    Raises:
        ValueError: if it is not base64, or not a `data:` URI.
    """
    if text[:5].lower() != "data:":
        return _decoded(_WHITE_SPACE.sub("", text))
    about, comma, body = text.partition(",")
    if not comma:
        raise ValueError("a data: URI without a comma")
    if about.rstrip().lower().endswith(";base64"):
        return _decoded(_WHITE_SPACE.sub("", unquote_to_bytes(body).decode("latin-1")))
    return unquote_to_bytes(body)


def _decoded(text: str) -> bytes:
    """Standard and URL-safe alphabet, with padding or without."""
    plain = text.rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(NOT_BASE64) from error

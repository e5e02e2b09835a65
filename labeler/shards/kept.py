"""Sidecars and columns that the user carries into the labels, as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from labeler import plain_json

MAX_BYTES = 1 << 20  # of one sidecar or cell; a larger one is not kept: a unit holds one for each of its 256 images
_FIELD = "json."  # "json.caption" is the field "caption" of the sidecar .json


def extensions(keep: Sequence[str]) -> frozenset[str]:
    """Return the sidecar extensions that hold what is to be kept."""
    return frozenset(name.lower() for name in keep) | ({"json"} if any(map(_is_field, keep)) else frozenset())


def from_sidecars(keep: Sequence[str], sidecars: Mapping[str, bytes]) -> dict[str, str | None]:
    """Return each name's text: a sidecar's whole content, or one field of the .json; None where there is none."""
    values: dict[str, str | None] = {}
    fields = _json_object(sidecars.get("json")) if any(map(_is_field, keep)) else {}
    for name in keep:
        content = sidecars.get(name.lower())
        if content is not None:
            values[name] = content.decode("utf-8-sig", "replace")
        elif _is_field(name):
            values[name] = as_text(_field(fields, name[len(_FIELD) :]))
        else:
            values[name] = None
    return values


def as_text(value: Any) -> str | None:
    """Return text as it is, None as None, anything else as JSON; always valid UTF-8."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def cell_text(cell: Any) -> str | None:
    """Return an Arrow scalar as text; None where it is null or larger than MAX_BYTES. Large ones are not copied to know
    it.
    """
    if size_of(cell) > MAX_BYTES:
        return None
    text = as_text(cell.as_py())
    return None if text is None or len(text.encode()) > MAX_BYTES else text


def size_of(cell: Any) -> int:
    """Return bytes of a binary or text scalar, without a copy; 0 for null and for other types."""
    if hasattr(cell, "dictionary"):
        cell = cell.value
    buffer = cell.as_buffer() if hasattr(cell, "as_buffer") else None
    return 0 if buffer is None else int(buffer.size)


def _plain(value: Any) -> Any:
    """Return what JSON has no form for: bytes as base64, times and decimals as text."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _is_field(name: str) -> bool:
    return name.lower().startswith(_FIELD) and len(name) > len(_FIELD)


def _json_object(content: bytes | None) -> dict[str, Any]:
    try:
        found = plain_json.parse(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _field(fields: Mapping[str, Any], path: str) -> Any:
    """`fields["a.b"]`, or else `fields["a"]["b"]`."""
    if path in fields:
        return fields[path]
    first, dot, rest = path.partition(".")
    inside = fields.get(first)
    return _field(inside, rest) if dot and isinstance(inside, dict) else None

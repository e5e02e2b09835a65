"""Sidecars and columns that the user carries into the labels, as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

_FIELD = "json."  # "json.caption" is the field "caption" of the sidecar .json


def extensions(keep: Sequence[str]) -> frozenset[str]:
    """The sidecar extensions that hold what is to be kept."""
    return frozenset(name.lower() for name in keep) | ({"json"} if any(map(_is_field, keep)) else frozenset())


def from_sidecars(keep: Sequence[str], sidecars: Mapping[str, bytes]) -> dict[str, str | None]:
    """Each name's text: a sidecar's whole content, or one field of the .json; None where there is none."""
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
    """Text as it is, None as None, anything else as JSON; always valid UTF-8."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any) -> Any:
    """What JSON has no form for: bytes as base64, times and decimals as text."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _is_field(name: str) -> bool:
    return name.lower().startswith(_FIELD) and len(name) > len(_FIELD)


def _json_object(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _field(fields: Mapping[str, Any], path: str) -> Any:
    """`fields["a.b"]`, or else `fields["a"]["b"]`."""
    if path in fields:
        return fields[path]
    first, dot, rest = path.partition(".")
    inside = fields.get(first)
    return _field(inside, rest) if dot and isinstance(inside, dict) else None

"""Large JSON documents member by member: the text is held once, and never all of its objects at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

from labeler.plain_json import NotPlainJson, require_depth, too_deep

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def iterate_members(text: str) -> Iterator[tuple[str, Any]]:
    """(key, element) for every element of the top-level lists of a JSON object; (key, value) for its other members.

    Raises:
        json.JSONDecodeError: the text is not one JSON object, or is cut off.
    """
    at = _skip(text, _expect(text, 0, "{"))
    if text.startswith("}", at):
        return
    while True:
        key, at = _value(text, at)
        at = _skip(text, _expect(text, at, ":"))
        if text.startswith("[", at):
            at = yield from _elements(text, at + 1, key)
        else:
            value, at = _value(text, at)
            yield key, value
        at = _skip(text, at)
        if not text.startswith(",", at):
            _expect(text, at, "}")
            return
        at = _skip(text, at + 1)


def _elements(text: str, at: int, key: str) -> Generator[tuple[str, Any], None, int]:
    """The elements of the list that began just before `at`; returns the position behind it."""
    at = _skip(text, at)
    if text.startswith("]", at):
        return at + 1
    while True:
        value, at = _value(text, at)
        yield key, value
        at = _skip(text, at)
        if not text.startswith(",", at):
            return _expect(text, at, "]")
        at = _skip(text, at + 1)


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and the position behind it."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        require_depth(value)
    except (RecursionError, NotPlainJson):
        raise json.JSONDecodeError(too_deep().problem, text, at) from None
    return value, end


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    """The position behind `character`, which must come next."""
    at = _skip(text, at)
    if not text.startswith(character, at):
        raise json.JSONDecodeError(f"expecting {character!r}", text, at)
    return at + 1

"""JSON documents of any size: a window of the text is held, and one element of the top level at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from labeler.plain_json import MAX_DEPTH, NotPlainJson, require_depth, too_deep

_PIECE = 1 << 18  # bytes; the window grows only where a single element is longer
_LONGEST_CUT = 12  # characters before the end in which text can be wrong only because it is cut off: "-Infinity"
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Readable(Protocol):
    def read(self, n: int, /) -> bytes:
        """At most `n` bytes; none at the end."""


class JsonStream:
    """A document, read once from its beginning: `members` of an object, or `elements` of a list.

    Text is UTF-8, with a byte order mark or without. Values are as `json.loads` makes them, at most MAX_DEPTH levels
    deep. All methods raise NotPlainJson where the document is not JSON or is cut off, with line and character.

    Args:
        started: the document's first bytes, where they were taken from the stream before.
        max_element_bytes: a longer value is not read into memory, and refused as NotPlainJson; None for any length.
    """

    def __init__(self, stream: Readable, begun: bytes = b"", *, max_element_bytes: int | None = None) -> None:
        self._longest = max_element_bytes
        self._stream, self._begun = stream, begun
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at = "", 0
        self._lines = self._characters = self._bytes = 0  # before the window; the last one: that were read
        self._ended = False

    def is_list(self) -> bool:
        """Return whether the document is a list."""
        return self._next() == "["

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield the object's members in their order; of a list its elements, as an iterator for until
        the next member.
        """
        for _ in self._separated("{", "}"):
            if self._next() != '"':
                raise self._wrong("Expecting a key in double quotes")
            key = self._value()
            self._expect(":")
            if self._next() == "[":
                elements = self._items()
                yield key, elements
                for _ in elements:  # what was not taken
                    pass
            else:
                yield key, self._value()
        self._finish()

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the list that the document is."""
        yield from self._items()
        self._finish()

    def _items(self) -> Iterator[Any]:
        for _ in self._separated("[", "]"):
            yield self._value()

    def _separated(self, first: str, last: str) -> Iterator[None]:
        """Once for each item between brackets, standing before it; the item is read before the next."""
        self._expect(first)
        if self._next() != last:
            yield
            while self._next() == ",":
                self._at += 1
                yield
        self._expect(last)

    def _finish(self) -> None:
        if self._next():
            raise self._wrong("Extra data")

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._wrong(f"Expecting {character!r}")
        self._at += 1

    def _next(self) -> str:
        """Return the next character that is not a space, and stand before it; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or not self._read_on():
                return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        """Return the value that begins here, and stand behind it."""
        self._next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                may_be_cut = error.pos >= len(self._text) - _LONGEST_CUT or error.msg.startswith("Unterminated")
                if not may_be_cut or not self._read_on():
                    raise self._wrong(error.msg, error.pos) from None
            except RecursionError:
                raise too_deep() from None
            except ValueError as error:  # a number of thousands of digits
                raise self._wrong(str(error).splitlines()[0]) from None
            else:
                if end < len(self._text) - _LONGEST_CUT or not self._read_on():  # else a number could continue
                    break
        brackets = self._text.count("[", self._at, end) + self._text.count("{", self._at, end)
        if brackets > MAX_DEPTH:
            require_depth(value)
        self._at = end
        return value

    def _read_on(self) -> bool:
        """Leave what was read, and read as much as is left again; False at the end of the stream."""
        if self._ended:
            return False
        if self._longest is not None and len(self._text) - self._at > self._longest:
            raise self._wrong(f"a value of more than {self._longest >> 20} MiB")
        data, self._begun = self._begun or self._stream.read(max(_PIECE, len(self._text) - self._at)), b""
        self._lines += self._text.count("\n", 0, self._at)
        self._characters += self._at
        self._text, self._at = self._text[self._at :], 0
        self._ended = not data
        pending = len(self._decoder.getstate()[0])
        try:
            self._text += self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            place = self._bytes - pending + error.start
            line = self._line(len(self._text)) + error.object.count(b"\n", 0, error.start)
            raise NotPlainJson(f"not UTF-8 (byte {place})", line) from None
        self._bytes += len(data)
        return True

    def _wrong(self, problem: str, at: int | None = None) -> NotPlainJson:
        at = self._at if at is None else at
        return NotPlainJson(f"{problem} (character {self._characters + at:,} of the file)", self._line(at))

    def _line(self, at: int) -> int:
        return 1 + self._lines + self._text.count("\n", 0, at)

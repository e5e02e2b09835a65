"""Documents in pieces: read as json.loads reads them wherever the pieces end, and refused where it refuses them."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labeler import json_stream
from labeler.json_stream import JsonStream
from labeler.plain_json import NotPlainJson


class Pieces:
    """A stream whose first piece has that many bytes, and each later one a single byte."""

    def __init__(self, data: bytes, first: int) -> None:
        self._stream, self._first = io.BytesIO(data), first

    def read(self, n: int, /) -> bytes:
        wanted, self._first = self._first or 1, 0
        return self._stream.read(min(n, wanted))


def whole(stream: JsonStream) -> Any:
    if stream.is_list():
        return list(stream.elements())
    pairs = [(key, list(value) if isinstance(value, Iterator) else value) for key, value in stream.members()]
    return dict(pairs)


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # NaN is NaN, 1 is not 1.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ODD = [
    '{"a": -1.5e-7, "b": [1e5, -0.0, 12345678901234567890123], "c": 1E+3}',
    '{"a": [NaN, Infinity, -Infinity], "b": NaN, "c": -Infinity}',
    '["\\ud83d\\ude00", "\\ud83d", "\\u00e9é\\n", "\U0001f600"]',
    '{"a": [ ] , "b" : { } ,\n\t"c": [[1], {"d": []}]}',
    "[true, false, null]",
    "  {}  ",
    "[]",
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(JSON, max_size=4) | st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.booleans(), st.booleans()
)
def test_a_document_is_what_json_makes_of_it_wherever_a_piece_ends(document: Any, spaced: bool, plain: bool) -> None:
    text = json.dumps(document, indent=1 if spaced else None, ensure_ascii=plain)
    data = text.encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(data.decode())
    except UnicodeDecodeError:
        return
    for first in range(0, len(data) + 1, 3):
        assert same(whole(JsonStream(Pieces(data, first))), expected)


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_odd_documents_are_too(text: str, mark: str) -> None:
    data = (mark + text).encode()
    for first in range(len(data) + 1):
        assert same(whole(JsonStream(Pieces(data, first))), json.loads(text))


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(ODD), st.integers(0, 60), st.sampled_from(["", " ", ",", "]", "}", '"', "1", "-", "\\", "x", "[{"])
)
@example(ODD[0], 60, "")
def test_what_json_refuses_is_refused_wherever_a_piece_ends(text: str, place: int, change: str) -> None:
    text = text[:place] + change + text[place + 1 :]
    try:
        expected = json.loads(text)
        if not isinstance(expected, list | dict):
            return
    except json.JSONDecodeError:
        expected = None
    for first in range(0, len(text.encode()) + 1, 2):
        stream = JsonStream(Pieces(text.encode(), first))
        if expected is None:
            with pytest.raises(NotPlainJson):
                whole(stream)
        else:
            assert same(whole(stream), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"line 1: Expecting '\{' \(character 0 of the file\)"),
        (b'{"a": 1,\n "b" 2}', r"line 2: Expecting ':' \(character 14 of the file\)"),
        (b'{"a": [1,\n\n 2', r"line 3: Expecting '\]' \(character 13 of the file\)"),
        (b'{"a": 1}\n{', r"line 2: Extra data \(character 9 of the file\)"),
        (b'{"a": 1, 2: 3}', r"Expecting a key in double quotes \(character 9 of the file\)"),
        (b'{"a": [\n"\xff"]}', r"line 2: not UTF-8 \(byte 9\)"),
        (b'{"a": "\xc3', r"line 1: not UTF-8 \(byte 7\)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000, "nested more than 64 levels deep"),
        (b'{"a": {"b": ' + b"[" * 64 + b"]" * 64 + b"}}", "nested more than 64 levels deep"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 18])
def test_what_is_wrong_is_named_with_its_place(
    data: bytes, message: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", piece)
    with pytest.raises(NotPlainJson, match=message):
        whole(JsonStream(io.BytesIO(data)))


def test_elements_that_nobody_takes_are_passed_over() -> None:
    members = JsonStream(io.BytesIO(b'{"a": [1, 2, 3], "b": [4], "c": 5}')).members()
    key, elements = next(members)
    assert (key, next(elements)) == ("a", 1)
    assert [key for key, _ in members] == ["b", "c"]


@pytest.mark.slow
def test_memory_holds_a_window_and_one_element() -> None:
    element = json.dumps({"numbers": list(range(100))})
    data = f'{{"list": [{", ".join([element] * 40_000)}]}}'.encode()
    tracemalloc.start()
    count = sum(1 for _, elements in JsonStream(io.BytesIO(data)).members() for _ in elements)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert len(data) > 15_000_000
    assert peak < 5_000_000

"""Listings of stores that do not keep to the protocol: each ends, whole or in one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from labeler import storage
from labeler.errors import StorageError
from labeler.storage import retries
from tests.http_server import Web
from tests.s3_server import PAGE

Query = dict[str, list[str]]
KEYS = [f"{number:03d}" for number in range(9)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))


class _Odd:
    """A server whose every answer is what `answer` makes of the query, up to a bound that no sound client reaches."""

    def __init__(self) -> None:
        self.answer: Callable[[Query], str] = lambda query: ""
        self.asked = 0


@pytest.fixture
def odd(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Odd]:
    state = _Odd()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            body = state.answer(parse_qs(urlsplit(self.path).query)).encode() if state.asked < 60 else b"<too-many/>"
            self.send_response(200 if state.asked < 60 else 400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield state
    server.shutdown()
    server.server_close()


def page(keys: list[str], *, more: bool = False, token: str | None = None) -> str:
    contents = "".join(f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag></Contents>" for key in keys)
    rest = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        f"<ListBucketResult><Name>b</Name><IsTruncated>{str(more).lower()}</IsTruncated>{rest}{contents}"
        "</ListBucketResult>"
    )


def listed() -> list[str]:
    return [storage.basename(info.uri) for info in storage.list_objects("s3://bucket")]


def test_a_token_that_comes_again_ends_the_listing_in_one_line(odd: _Odd) -> None:
    odd.answer = lambda query: page(KEYS, more=True, token="t")
    with pytest.raises(StorageError, match="the store repeats its continuation token"):
        listed()
    tokens = iter("ababababab")
    odd.answer = lambda query: page(KEYS, more=True, token=next(tokens))
    with pytest.raises(StorageError, match="the store repeats its continuation token"):
        listed()
    assert odd.asked <= 10


def test_a_store_without_tokens_is_listed_by_the_last_key(odd: _Odd) -> None:
    def answer(query: Query) -> str:
        after = query.get("start-after", [""])[0]
        rest = [key for key in KEYS if key > after]
        return page(rest[:4], more=len(rest) > 4)

    odd.answer = answer
    assert listed() == KEYS


def test_a_store_that_has_neither_tokens_nor_start_after_is_refused(odd: _Odd) -> None:
    odd.answer = lambda query: page(KEYS, more=True)
    with pytest.raises(StorageError, match="the listing has no end"):
        listed()
    assert odd.asked <= 10


@pytest.mark.parametrize("body", ["<ListBucketResult><Na", "<html><body>welcome</body></html>", "plain text", ""])
def test_an_answer_that_is_no_listing_ends_in_one_line(odd: _Odd, body: str) -> None:
    odd.answer = lambda query: body
    with pytest.raises(StorageError, match="storage failed 4 times in a row") as caught:
        listed()
    assert "\n" not in str(caught.value)


def test_a_page_that_cannot_be_parsed_does_not_start_the_listing_again(odd: _Odd) -> None:
    odd.answer = lambda query: "<broken" if "continuation-token" in query else page(KEYS, more=True, token="t")
    infos = storage.list_objects("s3://bucket")
    assert [storage.basename(next(infos).uri) for _ in KEYS] == KEYS
    with pytest.raises(StorageError, match="storage failed 4 times in a row"):
        next(infos)


def test_a_folder_of_many_pages_is_listed_whole(bucket: str) -> None:
    for number in range(PAGE + 3):
        storage.put(f"{bucket}/in/{number:03d}/x", b"1")
    assert len(list(storage.list_objects(f"{bucket}/in"))) == PAGE + 3
    storage.put(f"{bucket}/in/zzz", b"1")
    assert [info.uri for info in storage.list_objects(f"{bucket}/in", recursive=False)] == [f"{bucket}/in/zzz"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_endpoint_that_redirects_is_one_line(
    bucket: str, web: Web, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    for path in ("/b", "/b/x"):
        web.answer(path, status, times=999, headers={"Location": "https://me:s3cret@elsewhere.example/b?sig=s3cret"})
    calls: list[Callable[[], object]] = [
        lambda: list(storage.list_objects("s3://b")),
        lambda: storage.head("s3://b/x"),
        lambda: storage.read_bytes("s3://b/x"),
        lambda: storage.put("s3://b/x", b""),
        lambda: storage.delete("s3://b/x"),
    ]
    for call in calls:
        with pytest.raises(
            StorageError, match=r"redirects to https://\*\*\*@elsewhere.example/b.*AWS_ENDPOINT"
        ) as caught:
            call()
        assert "s3cret" not in str(caught.value)
    assert len(web.requests) < 20

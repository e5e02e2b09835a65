"""A real web server for tests: files with ranges and ETags, and knobs for missing features and wrong answers."""

from __future__ import annotations

import hashlib
import re
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Web:
    """The running server; the knobs may be turned while it runs.

    Attributes:
        files: body by path ("/a.jpg"); any other path is a 404.
        answers: by path, (status, headers) given instead, each once, whatever the method.
        has_head, has_ranges, has_lengths: False leaves that out, as plain servers do.
        etags: whether answers have one.
        coding: of every body, "gzip" or none.
        cuts: that many bodies end after half their bytes.
        requests: (method, path with its query, Range) in order.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[tuple[int, Mapping[str, str]]]] = field(default_factory=dict)
    has_head: bool = True
    has_ranges: bool = True
    has_lengths: bool = True
    etags: bool = True
    coding: str = ""
    cuts: int = 0
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def put(self, path: str, body: bytes) -> str:
        """Serve `body` there; returns its address."""
        self.files[path] = body
        return self.url + path

    def answer(self, path: str, status: int, *, times: int = 1, headers: Mapping[str, str] | None = None) -> None:
        self.answers.setdefault(path, []).extend([(status, headers or {})] * times)


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on this machine, without files."""
    with serving() as state:
        yield state


@contextmanager
def serving(certificate: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A server while the block runs; over TLS when it has a certificate."""
    state = Web()
    server = _Server(("127.0.0.1", 0), _handler(state))
    if certificate is not None:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):  # clients that have enough, or no trust
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(state: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            state.requests.append((self.command, self.path, self.headers.get("Range")))
            state.headers.append(dict(self.headers))
            if self.command == "HEAD" and not state.has_head:
                return self._plain(405)
            if state.answers.get(path):
                status, headers = state.answers[path].pop(0)
                return self._plain(status, headers)
            if self.command == "PUT":
                state.files[path] = sent
                return self._plain(201)
            if path not in state.files:
                return self._plain(404)
            self._file(state.files[path])

        def _file(self, body: bytes) -> None:
            wanted = _RANGE.fullmatch(self.headers.get("Range") or "") if state.has_ranges else None
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'} if state.etags else {}
            if state.coding == "gzip":
                import gzip

                body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
            status = 200
            if wanted:
                start, end = int(wanted[1]), int(wanted[2] or len(body) - 1)
                if start >= len(body):
                    return self._plain(416, {"Content-Range": f"bytes */{len(body)}"})
                headers["Content-Range"] = f"bytes {start}-{min(end, len(body) - 1)}/{len(body)}"
                status, body = 206, body[start : end + 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header(*(("Content-Length", str(len(body))) if state.has_lengths else ("Connection", "close")))
            self.end_headers()
            if self.command == "HEAD":
                return
            if state.cuts and len(body) > 1:
                state.cuts -= 1
                body, self.close_connection = body[: len(body) // 2], True
            self.wfile.write(body)

        def _plain(self, status: int, headers: Mapping[str, str] | None = None) -> None:
            body = f"<html>{status}</html>".encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            return None

    return Handler


__all__ = ["Web", "serving", "web"]

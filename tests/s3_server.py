"""A real S3 server for tests (moto's, in its own process), and a proxy before it that breaks connections."""

from __future__ import annotations

import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from labeler.storage import retries
from tests.certificates import Certificate
from tests.s3_faults import Faults
from tests.waiting import PATIENCE_S

PAGE = 40  # keys on one page of a listing, so that small tests see several
_LINE = re.compile(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d{3})')


@dataclass(frozen=True)
class S3Server:
    """The running server."""

    endpoint: str
    log: Path

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to use the server; credentials are made up."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def requests(self) -> list[tuple[str, str, int]]:
        """(method, path without query, status) of every request so far, in order."""
        found = _LINE.findall(self.log.read_text(errors="replace"))
        return [(method, unquote(urlsplit(path).path), int(status)) for method, path, status in found]

    def gets(self, key: str) -> int:
        """How many GETs named the object, "bucket/key"."""
        return sum(method == "GET" and path == f"/{key}" for method, path, _ in self.requests())

    def ranged_gets(self, key: str) -> int:
        """How many GETs of a part of the object: the server prints all but plain 200s in colors."""
        return len(re.findall(rf'GET /{re.escape(key)} HTTP/[\d.]+(?:\x1b\[[\d;]*m)*" 206', self.log.read_text()))

    def create_bucket(self, name: str) -> str:
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session. Use `server.env` for other processes, `bucket` for this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        env = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            _wait_for(port, process)
            yield S3Server(f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket's URI; this process's environment points at the server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server.create_bucket(f"test-{uuid.uuid4().hex[:12]}")


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")


# ---- a proxy that breaks things


@dataclass
class Proxy:
    """Pass requests on; the knobs may be turned while it runs.

    Attributes:
        cut_after: GET bodies are cut after that many bytes ...
        cuts: ... this many times.
        answers: (method, HTTP status, S3 error code) given instead of forwarding, each once, to the next such request.
        sent: GET body bytes sent, by path.
        ranges: (path, Range header) of every GET.
        faults: what fails at random, None for nothing.
        key_id: requests signed with another access key are answered with ExpiredToken; None takes all.
        framing: of bodies that come aws-chunked: "kept" stores the frames as if they were the object's bytes, as some
            gateways do; "refused" answers 501; None has the server take them off.
        framed: how many came so.
        public, paying: buckets that refuse signed requests, and requests that do not agree to pay.
        is_conditional: False answers 501 to If-None-Match.
    """

    endpoint: str = ""
    cut_after: int = 0
    cuts: int = 0
    answers: list[tuple[str, int, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    faults: Faults | None = None
    key_id: str | None = None
    framing: str | None = None
    framed: int = 0
    is_conditional: bool = True
    public: set[str] = field(default_factory=set)
    paying: set[str] = field(default_factory=set)


@pytest.fixture
def proxy(s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server; this process's environment points at the proxy."""
    yield from _proxied(s3_server, monkeypatch, None)


@pytest.fixture
def tls_proxy(
    s3_server: S3Server, bucket: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """The same over TLS, with a certificate of its own that this process is told to trust."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.bundle))
    yield from _proxied(s3_server, monkeypatch, certificate)


def _proxied(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, certificate: Certificate | None) -> Iterator[Proxy]:
    state = Proxy()
    upstream = urlsplit(s3_server.endpoint).netloc
    server = _Server(("127.0.0.1", 0), _handler(state, upstream))
    if certificate is not None:
        server.socket = certificate.server.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    state.endpoint = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", state.endpoint)
    monkeypatch.setattr(retries, "POLICY", retries.Policy(attempts=4, first_s=0.001, longest_s=0.002))
    yield state
    server.shutdown()
    server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients that skip far hang up in the middle of a body
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(state: Proxy, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self._body()
            if "aws-chunked" in self.headers.get("Content-Encoding", ""):
                state.framed += 1
                if state.framing == "refused":
                    return self._answer(501, "NotImplemented")
                if state.framing == "kept":
                    for name in ("Content-Encoding", "X-Amz-Content-SHA256", "X-Amz-Trailer"):
                        del self.headers[name]
            if not state.is_conditional and self.headers.get("If-None-Match"):
                return self._answer(501, "NotImplemented")
            bucket = urlsplit(self.path).path.split("/")[1]
            if bucket in state.public:
                if self.headers.get("Authorization"):
                    return self._answer(403, "AccessDenied")
                self.headers["Authorization"] = (
                    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"  # the server's own rule
                )
            if bucket in state.paying and self.headers.get("x-amz-request-payer") != "requester":
                return self._answer(403, "AccessDenied")
            for answer in state.answers:
                if answer[0] == self.command:
                    state.answers.remove(answer)
                    return self._answer(answer[1], answer[2])
            if state.key_id and f"Credential={state.key_id}/" not in self.headers.get("Authorization", ""):
                return self._answer(400, "ExpiredToken")
            fault = state.faults.draw(self.command) if state.faults else None
            if fault == "slow down":
                return self._answer(503, "SlowDown")
            if fault == "expired credentials":
                return self._answer(400, "ExpiredToken")
            if fault == "reset":
                return self._hang_up()
            if fault == "timeout":
                self.connection.settimeout(PATIENCE_S)
                self.connection.recv(1)  # no answer until the client gives up
                return self._hang_up()
            connection = http.client.HTTPConnection(upstream, timeout=PATIENCE_S)
            own = ("expect", "connection", "transfer-encoding", "content-length")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if fault == "lost answer":
                return self._hang_up()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if fault == "wrong ETag" and name.lower() == "etag":
                    value = f'"{uuid.uuid4().hex}"'
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if fault == "truncated body":
                data = data[: len(data) // 2]
                self.close_connection = True
            self._send_body(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                continue
            return b"".join(pieces)

        def _send_body(self, data: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            if self.command == "GET":
                state.ranges.append((path, self.headers.get("Range")))
                if state.cuts > 0 and len(data) > state.cut_after:
                    state.cuts -= 1
                    data = data[: state.cut_after]
                    self.close_connection = True
            for start in range(0, len(data), 64 << 10):
                piece = data[start : start + (64 << 10)]
                try:
                    self.wfile.write(piece)
                except OSError:  # the client has enough
                    self.close_connection = True
                    return
                if self.command == "GET":
                    state.sent[path] = state.sent.get(path, 0) + len(piece)

        def _hang_up(self) -> None:
            """Without an answer: with no time to linger, closing resets the connection."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def _answer(self, status: int, code: str) -> None:
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

        def log_message(self, format: str, *args: object) -> None:
            return None

    return Handler


__all__ = ["PAGE", "Proxy", "S3Server", "bucket", "proxy", "s3_server", "tls_proxy"]

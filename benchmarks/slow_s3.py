"""A stand-in for S3 with hundreds of thousands of keys, which takes its time for each listing as a real one does.

    python -m benchmarks.slow_s3 --port 9000

Objects are in memory; a key without bytes of its own may be one of many that share a body. moto sorts all keys for each
page of a listing, which is minutes for one listing of 400,000 keys.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 1000
MADE_SIZE = 30_000  # what a listing says of them, bytes
Made = Callable[[str], bytes]  # the bytes of a key, made when they are asked for
_NOW = "2026-01-01T00:00:00.000Z"


class Objects:
    """The keys of all buckets, "bucket/key", sorted, and their bytes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.keys: list[str] = []
        self.bodies: dict[str, bytes | Made] = {}

    def fill(self, keys: Iterable[str], body: bytes | Made) -> None:
        """Add keys that share one body."""
        with self.lock:
            self.bodies.update(dict.fromkeys(keys, body))
            self.keys = sorted(self.bodies)

    def put(self, key: str, body: bytes, *, if_absent: bool) -> bool:
        with self.lock:
            if key in self.bodies:
                if not if_absent:
                    self.bodies[key] = body
                return not if_absent
            insort(self.keys, key)
            self.bodies[key] = body
            return True

    def body(self, key: str) -> bytes | None:
        body = self.bodies.get(key)
        return body(key) if callable(body) else body

    def size(self, key: str) -> int:
        body = self.bodies[key]
        return MADE_SIZE if callable(body) else len(body)

    def delete(self, key: str) -> None:
        with self.lock:
            if self.bodies.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]

    def page(self, bucket: str, prefix: str, after: str, delimiter: str) -> tuple[list[str], list[str], bool]:
        """Return (keys, common prefixes, whether there is more) of a page, without the bucket."""
        start, whole = len(bucket) + 1, f"{bucket}/{prefix}"
        found: list[str] = []
        folders: dict[str, None] = {}
        at = max(bisect_left(self.keys, whole), bisect_right(self.keys, f"{bucket}/{after}") if after else 0)
        while at < len(self.keys) and self.keys[at].startswith(whole):
            if len(found) + len(folders) == PAGE:
                return found, list(folders), True
            key = self.keys[at][start:]
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end < 0:
                found.append(key)
                at += 1
            else:
                folders[key[: end + 1]] = None
                at = bisect_left(self.keys, f"{bucket}/{key[: end + 1]}\U0010ffff")
        return found, list(folders), False


class Stand(ThreadingHTTPServer):
    """The server.

    Args:
        list_s, put_s: what a page of a listing, and a PUT, take at least.
        port: 0 for any.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *, list_s: float = 0.05, put_s: float = 0.0, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.list_s, self.put_s = list_s, put_s
        self.puts = self.most_puts = 0  # at once
        self.objects = Objects()
        self.asked: list[tuple[float, str, str]] = []  # (seconds since 1970, method, path with query)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a job that was stopped hangs up
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stand
    disable_nagle_algorithm = True

    def _key(self) -> str:
        self.server.asked.append((time.time(), self.command, self.path))
        return unquote(urlsplit(self.path).path).lstrip("/")

    def do_GET(self) -> None:
        key, query = self._key(), parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            time.sleep(self.server.list_s)
            self._answer(200, self._listing(key.rstrip("/"), {name: values[0] for name, values in query.items()}))
            return
        body = self.server.objects.body(key)
        if body is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>not there</Message></Error>")
            return
        asked = self.headers.get("Range", "")
        if not asked:
            self._answer(200, body, etag=md5(body).hexdigest())
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = body[int(first) : int(last) + 1 if last else None]
        where = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
        self._answer(206, part, etag=md5(body).hexdigest(), content_range=where)

    def do_HEAD(self) -> None:
        body = self.server.objects.body(self._key())
        if body is None:
            self._answer(404, b"")
        else:
            self._answer(200, body, etag=md5(body).hexdigest())

    def do_PUT(self) -> None:
        key = self._key()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.objects.lock:
            self.server.puts += 1
            self.server.most_puts = max(self.server.most_puts, self.server.puts)
        time.sleep(self.server.put_s)
        with self.server.objects.lock:
            self.server.puts -= 1
        written = self.server.objects.put(key, body, if_absent=self.headers.get("If-None-Match") == "*")
        self._answer(200 if written else 412, b"", etag=md5(body).hexdigest())

    def do_DELETE(self) -> None:
        self.server.objects.delete(self._key())
        self._answer(204, b"")

    def _listing(self, bucket: str, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        keys, folders, more = self.server.objects.page(bucket, prefix, after, delimiter)
        size = self.server.objects.size
        contents = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>{_NOW}</LastModified>"
            f"<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>{size(f'{bucket}/{key}')}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
        )
        common = "".join(f"<CommonPrefixes><Prefix>{quote(each)}</Prefix></CommonPrefixes>" for each in folders)
        last = max([*keys, *(f"{each}\U0010ffff" for each in folders)], default="")
        token = f"<NextContinuationToken>{last}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{contents}{common}</ListBucketResult>"
        ).encode()

    def _answer(self, status: int, body: bytes, *, etag: str = "", content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", "0" if status == 204 else str(len(body)))
        self.send_header("Last-Modified", formatdate(1_767_225_600, usegmt=True))
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_s3", description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--list-s", type=float, default=0.05, help="seconds a page of a listing takes (default 0.05)")
    arguments = parser.parse_args()
    with Stand(list_s=arguments.list_s, port=arguments.port) as server:
        print(server.endpoint, flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

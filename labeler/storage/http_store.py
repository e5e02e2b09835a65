"""http:// and https://: one GET per read, whatever the server leaves out (HEAD, ranges, lengths)."""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from itertools import islice
from typing import Any
from urllib.parse import unquote

import fsspec
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Url, parse_url

from labeler.errors import InputChanged, StorageError
from labeler.storage.causes import explain, explain_status, is_unknown_host
from labeler.storage.failures import INVALID, MISSING, UNREACHABLE, Transient, Unreadable
from labeler.storage.fsspec_store import FsspecStore
from labeler.storage.http_bodies import Streamed, Whole
from labeler.storage.http_evidence import Evidence
from labeler.storage.http_index import links_below
from labeler.storage.objects import Body, ObjectInfo, OnSkipped, bare_etag
from labeler.storage.redaction import redact
from labeler.storage.retries import retrying
from labeler.storage.uris import one_line

_FAILURES = (HTTPError, HTTPException, OSError, ValueError)
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_REDIRECTS = 10
_TRIES = urllib3.Retry(total=None, connect=0, read=0, redirect=_REDIRECTS, status=0, other=0,
                       respect_retry_after_header=False)  # fmt: skip  # other tries are those of retries.py
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_BEHIND_END = re.compile(r"bytes \*/(\d+)")
_HEADS = 16  # at a time, for the sizes of what an index page names
_MOST_PAGE_BYTES = 64 << 20  # of an index page
_BELIEVED_AFTER_S = 10.0  # a host that was unknown for so long is not waited for at its next address

_pools: dict[tuple[int, str], urllib3.PoolManager] = {}  # by process (they do not survive a fork) and proxy
_pools_lock = threading.Lock()
_unknown_since: dict[str, float] = {}
_evidence = Evidence()
_OVERLOADED = frozenset({408, 425, 429, 503})


def _renew_lock() -> None:
    global _pools_lock  # a fork may have copied it locked
    _pools_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class HttpStore(FsspecStore):
    """Web servers and presigned addresses of object stores. Writing is fsspec's."""

    def head(self, uri: str) -> ObjectInfo | None:
        """As of Store. Falls back to a GET of the first byte: presigned addresses and some servers refuse HEAD."""
        response = _request("HEAD", uri)
        response.close()
        size = response.headers.get("Content-Length", "")
        if response.status == 200 and size.isdecimal() and not _is_coded(response):
            return ObjectInfo(uri, int(size), _etag(response), _modified(response))
        refusal = explain_status(uri, response.status, response.headers)
        if response.status >= 400 and isinstance(refusal, Transient) and response.status != 501:
            raise refusal
        try:
            with closing(self.open_body(uri, 0, 1, None)) as body:
                return ObjectInfo(uri, body.size, body.etag)
        except Unreadable as error:
            if error.reason == MISSING:
                return None
            raise

    def open_body(self, uri: str, start: int, length: int | None, etag: str | None) -> Body:
        wanted = {}
        if start or length is not None:
            wanted = {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        response = _request("GET", uri, wanted)
        if response.status == 416:
            return self._nothing_at(uri, start, response)
        if response.status not in (200, 206):
            response.close()
            raise _refused(uri, response)
        if _is_coded(response):  # a range of it would be of the coded bytes
            return self._decoded(uri, start, response)
        if response.status == 206:
            in_range = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if in_range is None or int(in_range[1]) != start:
                response.close()
                said = redact(response.headers.get("Content-Range", "a part without Content-Range"))
                raise Transient(f"asked for bytes from {start} on, the server sent {said}")
            return Streamed(uri, response, int(in_range[2]), _etag(response))
        if response.headers.get("Content-Length", "").isdecimal():
            size = int(response.headers["Content-Length"])
            return Streamed(uri, response, size, _etag(response), skip=start, is_whole=bool(wanted))
        return Whole(uri, response, start, _etag(response))

    def _nothing_at(self, uri: str, start: int, response: Any) -> Body:
        """The body of a request for bytes at the end of the object or behind it."""
        at_end = _BEHIND_END.fullmatch(response.headers.get("Content-Range", "").strip())
        if at_end is None:
            return self._decoded(uri, start, response)
        response.close()
        if int(at_end[1]) != start:
            raise InputChanged(
                f"{redact(uri)} ends before byte {start}: it was replaced; restore it, or label it in another run"
            )
        return Streamed(uri, response, start, _etag(response))

    def _decoded(self, uri: str, start: int, refused: Any) -> Body:
        """All of the object without its coding, in place of an answer to a range that says too little."""
        if refused.status != 200:
            refused.close()
            refused = _request("GET", uri)
        if refused.status != 200:
            refused.close()
            raise explain_status(uri, refused.status, refused.headers, host_is_named=True)
        return Whole(uri, refused, start, _etag(refused))

    def list_objects(
        self, uri_prefix: str, *, recursive: bool, on_skipped: OnSkipped | None = None
    ) -> Iterator[ObjectInfo]:
        """The objects that index pages link to below the address; the size of each is asked for."""
        uris = iter(sorted(_linked(uri_prefix.rstrip("/") + "/", recursive)))
        with ThreadPoolExecutor(_HEADS, thread_name_prefix="head") as pool:
            while batch := list(islice(uris, 64 * _HEADS)):
                found = pool.map(lambda uri: retrying(uri, lambda: self.head(uri)), batch)
                yield from (info for info in found if info is not None)


def _linked(folder: str, recursive: bool) -> set[str]:
    """Addresses of all files that the index pages of a folder and of its subfolders link to."""
    files: set[str] = set()
    folders, seen = [folder], {folder}
    while folders:
        at = folders.pop()
        page = retrying(at, partial(_page, at)) or retrying(at, partial(_page, at.rstrip("/")))
        for link in links_below(at, page):
            if not link.endswith("/"):
                files.add(link)
            elif recursive and link not in seen:
                seen.add(link)
                folders.append(link)
    return files


def _page(uri: str) -> str:
    """The text of an index page; "" where there is none."""
    response = _request("GET", uri)
    try:
        if response.status != 200:
            refusal = explain_status(uri, response.status, response.headers, host_is_named=True)
            if isinstance(refusal, Unreadable) and refusal.reason == MISSING:
                return ""
            raise refusal
        if "html" not in response.headers.get("Content-Type", "html"):
            return ""
        page: bytes = response.read(_MOST_PAGE_BYTES, decode_content=True)
        return page.decode("utf-8", "replace")
    except _FAILURES as error:
        raise Transient(one_line(error)) from error
    finally:
        response.close()


def _request(method: str, uri: str, headers: Mapping[str, str] | None = None) -> Any:
    """An answer of whatever status, redirects followed; its body is not read yet.

    Raises:
        Transient, StorageError: if there is no answer.
    """
    try:
        url = parse_url(uri)
    except (LocationValueError, ValueError) as error:
        raise _invalid(uri, error) from error
    if not url.host:
        raise _invalid(uri, "it names no host")
    try:
        response = _pool(url).request(
            method,
            url._replace(auth=None, fragment=None).url,
            headers={**_own_headers(url), **(headers or {})},
            preload_content=False,
            decode_content=False,
            retries=_TRIES,
            timeout=_TIMEOUT,
        )
    except LocationValueError as error:  # a redirect's, or a name that is too long
        raise _invalid(uri, error) from error
    except _FAILURES as error:
        raise _unanswered(uri, url.host, error) from error
    _unknown_since.pop(url.host, None)
    if response.status < 500 and response.status not in _OVERLOADED:
        _evidence.answered(url.netloc or "", uri)
    return response


def _invalid(uri: str, why: object) -> Unreadable:
    said = one_line(why) if isinstance(why, BaseException) else why
    return Unreadable(f"{redact(uri)}: not a valid address ({said})", INVALID)


def _unanswered(uri: str, host: str, error: Exception) -> Exception:
    if is_unknown_host(error):
        since = _unknown_since.setdefault(host, time.monotonic())
        if time.monotonic() - since > _BELIEVED_AFTER_S:
            return Unreadable(f"{redact(uri)}: there is no host of that name", UNREACHABLE)
    return _of_address(uri, explain(uri, error, host_is_named=True), as_a_host=False)


def _refused(uri: str, response: Any) -> Exception:
    """What an answer means that is not a success."""
    found = explain_status(uri, response.status, response.headers, host_is_named=True)
    return _of_address(uri, found, as_a_host=response.status in _OVERLOADED)


def _of_address(uri: str, failure: Exception, *, as_a_host: bool) -> Exception:
    """A failure that may pass; if it does not, and others answered meanwhile, it is this address's own."""
    if isinstance(failure, Transient) and failure.reason is None:
        host = parse_url(uri).netloc or ""
        failure.reason = UNREACHABLE if _evidence.is_alone(uri, host, as_a_host=as_a_host) else None
    return failure


def _pool(url: Url) -> urllib3.PoolManager:
    """This process's connections, through a proxy where the environment names one (HTTPS_PROXY, NO_PROXY)."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme or "") or proxies.get("all") or ""
    if proxy and urllib.request.proxy_bypass(url.netloc or ""):
        proxy = ""
    key = (os.getpid(), proxy)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = _new_pool(proxy)
        return _pools[key]


def _new_pool(proxy: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"num_pools": 64, "maxsize": 64, "ssl_context": ssl.create_default_context()}
    if not proxy:
        return urllib3.PoolManager(**options)
    try:
        at = parse_url(proxy if "://" in proxy else f"http://{proxy}")
        login = urllib3.make_headers(proxy_basic_auth=unquote(at.auth)) if at.auth else None
        return urllib3.ProxyManager(at._replace(auth=None).url, proxy_headers=login, **options)
    except (HTTPError, ValueError) as error:
        raise StorageError(f"the proxy {redact(proxy)} cannot be used: {one_line(error)}; check HTTPS_PROXY") from error


def _own_headers(url: Url) -> dict[str, str]:
    """What every request has: no coding, the address's own login, and the headers of fsspec's configuration."""
    conf: Mapping[str, Any] = fsspec.config.conf.get(url.scheme, {})
    headers = {"User-Agent": "labeler", "Accept-Encoding": "identity"}
    headers |= {**conf.get("client_kwargs", {}).get("headers", {}), **conf.get("headers", {})}
    if url.auth:
        headers["Authorization"] = "Basic " + b64encode(unquote(url.auth).encode()).decode("ascii")
    return headers


def _is_coded(response: Any) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")


def _etag(response: Any) -> str | None:
    return bare_etag(response.headers.get("ETag"))


def _modified(response: Any) -> float | None:
    try:
        return parsedate_to_datetime(response.headers.get("Last-Modified", "")).timestamp()
    except (ValueError, TypeError):
        return None

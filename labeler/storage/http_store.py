"""http:// and https://: one GET per read, whatever the server excludes (HEAD, ranges, lengths)."""

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
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from itertools import islice
from typing import Any
from urllib.parse import unquote

import fsspec
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError, MaxRetryError
from urllib3.util import Url, parse_url

from labeler.errors import InputChanged, StorageError
from labeler.storage.causes import explain, explain_status, is_unknown_host
from labeler.storage.failures import INVALID, MISSING, UNREACHABLE, Transient, Unreadable
from labeler.storage.fsspec_store import FsspecStore
from labeler.storage.http_bodies import Streamed, Whole
from labeler.storage.http_evidence import HostEvidence, SilentHosts
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
_BELIEVED_AFTER_S = 10.0  # a host that was unknown for that long is not waited for at its next address

_pools: dict[tuple[int, str], urllib3.PoolManager] = {}  # by process (they do not survive a fork) and proxy
_pools_lock = threading.Lock()
_unknown_since: dict[str, float] = {}
_evidence = HostEvidence()
_silent = SilentHosts()
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
            return Streamed(response, int(in_range[2]), _etag(response))
        if response.headers.get("Content-Length", "").isdecimal():
            size = int(response.headers["Content-Length"])
            return Streamed(response, size, _etag(response), skip=start, is_whole=bool(wanted))
        return Whole(uri, response, start, _etag(response))

    def _nothing_at(self, uri: str, start: int, response: Any) -> Body:
        """Return the body of a request for bytes at the end of the object or behind it."""
        at_end = _BEHIND_END.fullmatch(response.headers.get("Content-Range", "").strip())
        if at_end is None:
            return self._decoded(uri, start, response)
        response.close()
        if int(at_end[1]) != start:
            raise InputChanged(
                f"{redact(uri)} ends before byte {start}: it was replaced; restore it, or label it in another run"
            )
        return Streamed(response, start, _etag(response))

    def _decoded(self, uri: str, start: int, refused: Any) -> Body:
        """Return all of the object without its coding, in place of an answer to a range that says too little."""
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
        """Yield the objects that index pages link to below the address; the size of each is asked for."""
        uris = iter(sorted(_linked(uri_prefix.rstrip("/") + "/", recursive)))
        with ThreadPoolExecutor(_HEADS, thread_name_prefix="head") as pool:
            while batch := list(islice(uris, 64 * _HEADS)):
                found = pool.map(lambda uri: self._listed(uri, on_skipped), batch)
                yield from (info for info in found if info is not None)

    def _listed(self, uri: str, on_skipped: OnSkipped | None) -> ObjectInfo | None:
        """Return what an index page links to, or None where it is not there: one bad link costs itself."""
        try:
            info = retrying(uri, lambda: self.head(uri))
            reason = MISSING
        except Unreadable as error:
            if on_skipped is None:
                raise
            info, reason = None, error.reason
        if info is None and on_skipped is not None:
            on_skipped(uri, reason)
        return info


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
    """Return the text of an index page; "" where there is none."""
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
    """Return an answer of whatever status, redirects followed; its body is not read yet.

    Raises:
        Transient, StorageError: if there is no answer.
    """
    try:
        url = parse_url(uri)
    except (LocationValueError, ValueError) as error:
        raise _invalid(uri, error) from error
    if not url.host:
        raise _invalid(uri, "it names no host")
    if _silent.is_dead(_place(url.scheme, url.host, url.port)) and _others_answer(url):
        raise _silent_host(uri)
    began = time.monotonic()
    try:
        response = _answer(method, uri, url, headers or {})
    except LocationValueError as error:  # a redirect's, or a name that is too long
        raise _invalid(uri, error) from error
    except _FAILURES as error:
        raise _unanswered(uri, url, error, began) from error
    _unknown_since.pop(url.host, None)
    return response


def _answer(method: str, uri: str, url: Url, headers: Mapping[str, str]) -> Any:
    response = _pool(url).request(
        method,
        url._replace(auth=None, fragment=None).url,
        headers={**_own_headers(url), **headers},
        preload_content=False,
        decode_content=False,
        retries=_TRIES,
        timeout=_TIMEOUT,
    )
    _silent.answered(_place(url.scheme, url.host, url.port))
    if response.status < 500 and response.status not in _OVERLOADED:
        _evidence.answered(url.netloc or "", uri)
    return response


def _others_answer(url: Url) -> bool:
    """Return whether another host answered within the last minute, or does now, so that the network is well.

    All others may have answered before a connection timed out, and the next images wait for this one.
    """
    recent, uri = _evidence.other(url.netloc or "")
    if recent or not uri:
        return recent
    with suppress(*_FAILURES):
        _answer("HEAD", uri, parse_url(uri), {}).close()
    return _evidence.other(url.netloc or "")[0]


def _place(scheme: str | None, host: str | None, port: int | None) -> str:
    """Return what a connection is made to."""
    return f"{(host or '').strip('[]').lower()}:{port or (443 if scheme == 'https' else 80)}"


def _invalid(uri: str, why: object) -> Unreadable:
    said = one_line(why) if isinstance(why, BaseException) else why
    return Unreadable(f"{redact(uri)}: not a valid address ({said})", INVALID)


def _silent_host(uri: str) -> Unreadable:
    return Unreadable(f"{redact(uri)}: connections to its host time out, while other hosts answer", UNREACHABLE)


def _unanswered(uri: str, url: Url, error: Exception, began: float) -> Exception:
    if isinstance(error, MaxRetryError) and isinstance(error.reason, ConnectTimeoutError) and error.pool is not None:
        asked = _place(error.pool.scheme, error.pool.host, error.pool.port)  # a redirect's host is another
        is_dead, others_answer = _silent.timed_out(asked, began), _others_answer(url)
        if is_dead and others_answer:
            return _silent_host(uri)
    if is_unknown_host(error):
        since = _unknown_since.setdefault(url.host or "", time.monotonic())
        if time.monotonic() - since > _BELIEVED_AFTER_S:
            return Unreadable(f"{redact(uri)}: there is no host of that name", UNREACHABLE)
    return _of_address(uri, explain(uri, error, host_is_named=True), as_a_host=False)


def _refused(uri: str, response: Any) -> Exception:
    """Return what an answer means that is not a success."""
    found = explain_status(uri, response.status, response.headers, host_is_named=True)
    return _of_address(uri, found, as_a_host=response.status in _OVERLOADED)


def _of_address(uri: str, failure: Exception, *, as_a_host: bool) -> Exception:
    """Return a failure that may pass; if it does not, and others answered meanwhile, it is this address's own."""
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
    """Return what every request has: no coding, the address's own login, and the headers of fsspec's configuration."""
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

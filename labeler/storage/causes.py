"""What a foreign library's exception means, however it is wrapped: gone, denied, busy or unreachable."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from labeler.errors import StorageError
from labeler.storage.failures import DENIED, INVALID, MISSING, UNREACHABLE, Transient, Unreadable
from labeler.storage.redaction import redact
from labeler.storage.uris import one_line, scheme

_NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_HARMLESS = (*_NOT_THERE, LookupError)  # how libraries find out that nothing is there
_CANNOT = (TypeError, ValueError, NotImplementedError, AttributeError)
_GONE = {404, 410}
_DENIED = {401, 402, 403, 407, 451}
_BUSY = {408, 425, 429}
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_MOST_CAUSES = 20  # of one exception; a chain that is longer goes in a circle


def explain(uri: str, error: BaseException, *, host_is_named: bool = False) -> Exception:
    """Return the exception to raise instead: Transient if another try may help, else a StorageError.

    A library may wrap a passing failure in "file not found", so the first cause that says more decides.

    Args:
        host_is_named: the address itself names the host, so a host that does not exist is this one object's failure.
    """
    chain = list(_causes(error))
    for cause in chain:
        found = _explain_one(uri, cause, host_is_named)
        if found is not None:
            return found
    if all(isinstance(cause, _HARMLESS) for cause in chain):
        return Unreadable(f"{redact(uri)}: no such object", MISSING)
    if isinstance(error, _CANNOT) and not isinstance(error, OSError):
        return StorageError(f"{redact(uri)}: {scheme(uri)}:// cannot do this ({one_line(error)})")
    return Transient(one_line(chain[-1] if isinstance(error, _NOT_THERE) else error))


def explain_status(
    uri: str, status: int, headers: Mapping[str, str] | None = None, *, host_is_named: bool = False
) -> Exception:
    """As `explain`, for an HTTP status that is not a success."""
    shown = redact(uri)
    if status in _GONE:
        return Unreadable(f"{shown}: no such object", MISSING)
    if status in _DENIED:
        return Unreadable(
            f"{shown}: access denied (HTTP {status}); check the credentials and their permissions", DENIED
        )
    if status in _BUSY or 500 <= status < 600:
        return Transient(f"HTTP {status}", after_s=asked_pause_s(headers or {}))
    said = f"{shown}: the server answered HTTP {status}; check the address"
    return Unreadable(said, f"HTTP {status}") if host_is_named else StorageError(said)


def asked_pause_s(headers: Mapping[str, str]) -> float:
    """Return seconds that a Retry-After header asks for, as a number or as a date; 0 without a valid one."""
    asked = next((value for name, value in headers.items() if str(name).lower() == "retry-after"), "").strip()
    try:
        return max(0.0, float(asked)) if asked[:1].isdigit() else parsedate_to_datetime(asked).timestamp() - time.time()
    except (ValueError, OverflowError, TypeError):
        return 0.0


def is_unknown_host(error: BaseException) -> bool:
    """Return whether the name service says that there is no such host; a service that does not answer says nothing."""
    return any(isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_HOST for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then what is behind it, nearest first, as far as the library shows it."""
    queue, seen = [error], set[int]()
    while queue and len(seen) < _MOST_CAUSES:
        cause = queue.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        is_hidden = cause.__suppress_context__ and cause.__cause__ is None  # `raise ... from None`
        behind = (cause.__cause__, None if is_hidden else cause.__context__, getattr(cause, "reason", None))
        queue += [each for each in (*behind, *cause.args) if isinstance(each, BaseException)]


def _explain_one(uri: str, error: BaseException, host_is_named: bool) -> Exception | None:
    """Return what one exception of a chain says; None if it leaves the question open."""
    status = _status_of(error)
    if status is not None:
        return explain_status(uri, status, _headers_of(error), host_is_named=host_is_named)
    if isinstance(error, PermissionError) or (type(error) is OSError and str(error).startswith("Forbidden")):  # gcsfs
        return Unreadable(f"{redact(uri)}: access denied; check the credentials and their permissions", DENIED)
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"{redact(uri)}: its certificate is not trusted; set SSL_CERT_FILE to its authority's"
        return Unreadable(said, UNREACHABLE) if host_is_named else StorageError(said)
    if "TooManyRedirects" in type(error).__name__ or "too many redirects" in str(error).lower():
        said = f"{redact(uri)}: it redirects in a circle, or too often; check the address"
        return Unreadable(said, UNREACHABLE) if host_is_named else StorageError(said)
    if isinstance(error, socket.gaierror):
        unknown = is_unknown_host(error)
        return Transient(one_line(error), reason=UNREACHABLE if unknown and host_is_named else None)
    if isinstance(error, UnicodeError) and host_is_named:  # a host's name that no name service could be asked for
        return Unreadable(f"{redact(uri)}: {one_line(error)}", INVALID)
    if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None) in _NETWORK:
        return Transient(one_line(error))
    return None


_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN,
            errno.EINTR, errno.EMFILE, errno.ENFILE, errno.EIO}  # fmt: skip


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception has: aiohttp's, requests', Google's, Azure's, boto's."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = [getattr(error, name, None) for name in ("status", "status_code", "code", "http_status")]
    found += [response, getattr(response, "status_code", None), getattr(response, "status", None)]
    for value in found:
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 1000:
            return int(value)
    return None


def _headers_of(error: BaseException) -> Mapping[str, str]:
    for holder in (error, getattr(error, "response", None)):
        headers = getattr(holder, "headers", None)
        if isinstance(headers, Mapping):
            return headers
    return {}

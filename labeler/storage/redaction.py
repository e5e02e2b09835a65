"""Addresses, and messages with addresses in them, without user names, passwords and query values."""

from __future__ import annotations

import re

_HIDDEN = "***@"
_WHOLE = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*:/{1,2})(.*)", re.DOTALL)
_PORT = re.compile(r"\d{1,5}(/|$)")
_WEB = re.compile(r"https?:/{1,2}$", re.IGNORECASE)
# In a message an address ends where white space or a quote begins; "//" may have become "/" (pathlib).
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^\s\"'<>]+?(?=[:;,)]?(?:[\s\"'<>]|$))")
_LONE_QUERY = re.compile(r"\?[^\s\"'?]*=[^\s\"']*")


def redact(text: str) -> str:
    """Return a URI, or a message with URIs in it, without what may be secret.

    A text that is a URI as a whole is redacted part by part, so that slashes, spaces and quotes in a password or a
    signature hide nothing. In a message an address ends at white space: redact addresses before they become part of it.
    """
    whole = _WHOLE.fullmatch(text)
    if whole and "\n" not in text and not _is_sentence(text):
        return _address(text)
    return _LONE_QUERY.sub("?...", _IN_TEXT.sub(lambda found: _address(found[0]), text))


def restore_user(redacted: str, like: str) -> str:
    """Return an address that was kept without its user and password, with those of `like` if the host is the same."""
    shown = _address(like)
    start, hidden, rest = redacted.partition(_HIDDEN)
    host = rest.partition("/")[0]
    if not hidden or not f"{shown}/".startswith(f"{start}{_HIDDEN}{host}/"):
        return redacted
    behind_user = shown.removeprefix(start + _HIDDEN)
    return start + like.removeprefix(start).removesuffix(behind_user) + rest


def _is_sentence(text: str) -> bool:
    """Return whether words follow an address: "s3://b/a: no such object; ..."."""
    return re.search(r"[:;,)] ", text) is not None and "@" not in text.partition(": ")[2]


def _address(uri: str) -> str:
    found = _WHOLE.fullmatch(uri)
    if found is None:
        return uri
    start, rest = found[1], _without_user(found[2])
    head, mark, query = rest.partition("?")
    if mark and (_WEB.search(start) or "=" in query):  # elsewhere "?" may be a wildcard
        rest = f"{head}?..."
    return start + rest


def _without_user(rest: str) -> str:
    """`user:password@host/path` as `***@host/path`; a secret key may hold "/", a password "@"."""
    slash = rest.find("/")
    authority = rest if slash < 0 else rest[:slash]
    if "@" in authority:
        return _HIDDEN + rest[authority.rindex("@") + 1 :]
    user, colon, behind = rest.partition(":")
    if colon and "/" not in user and "@" in behind and not _PORT.match(behind):
        return _HIDDEN + behind[behind.index("@") + 1 :]
    return rest

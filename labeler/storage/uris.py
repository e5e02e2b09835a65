"""URIs as storage understands them: a scheme and a path, nothing decoded, nothing normalized."""

from __future__ import annotations

import os
import re
from pathlib import Path

from labeler.errors import Refused
from labeler.storage.redaction import redact

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAX_MESSAGE = 300  # characters of a foreign message that are repeated


def scheme(uri: str) -> str:
    """Return the lower-case scheme; "" for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def is_local(uri: str) -> bool:
    """Return a plain path or file://; `local://` is not, it belongs to fsspec."""
    return scheme(uri) in ("", "file") and "::" not in uri.split("/", 1)[0]


def local_path(uri: str) -> str:
    """Return the path of a local URI, as the operating system takes it."""
    return uri[len("file://") :] if scheme(uri) == "file" else uri


def expand_home(path: str) -> str:
    """Return `path` with a leading `~` replaced by the user's home folder.

    Raises:
        Refused: if that folder is not known, as in a container whose user has no passwd entry.
    """
    expanded = os.path.expanduser(path)
    if expanded == "~" or expanded.startswith("~/"):
        raise Refused(f"{redact(path)}: this user has no home folder (HOME is not set); write the path in full")
    return expanded


def absolute_uri(uri: str) -> str:
    """Return a local path made absolute, so that workers with another working directory mean the same; URLs as they
    are.
    """
    if not is_local(uri):
        return uri
    return str(Path(expand_home(uri.removeprefix("file://"))).absolute())


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it, one slash between."""
    joined = uri
    for part in parts:
        if joined and not joined.endswith("/"):
            joined += "/"
        joined += part.strip("/") if joined else part.rstrip("/")
    return joined


def is_web(uri: str) -> bool:
    """Return an http:// or https:// address."""
    return scheme(uri) in ("http", "https")


def path_of(uri: str) -> str:
    """Return a web address without its query and fragment, which may be a signature; any other URI as it is."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if is_web(uri) else uri


def basename(uri: str) -> str:
    """Return the last segment of the path."""
    return path_of(uri).rstrip("/").rsplit("/", 1)[-1]


def parent(uri: str) -> str:
    """Return the folder that holds `uri`, without a slash at its end (except the root)."""
    head, _, _ = path_of(uri).rstrip("/").rpartition("/")
    return head or ("/" if uri.startswith("/") else "")


def printable(text: str) -> str:
    """`text` with control characters escaped, so that a name in it cannot steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """Return a foreign exception as a short line without secrets."""
    text = redact(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 3] + "..."

"""Files that a command writes over: what the new one replaces, and what it must not."""

from __future__ import annotations

from collections.abc import Callable

from labeler import signature, storage
from labeler.errors import Refused

_MAX_BYTES = 256 << 20  # a larger file is none that could be described


def require_replaceable(
    uri: str,
    describe: Callable[[bytes], str | None],
    what: str,
    *,
    force: bool = False,
    or_else: str = "replace it with --force",
    option: str = "--output",
    max_bytes: int = _MAX_BYTES,
) -> str | None:
    """Return what a file written to `uri` would replace; None if nothing is there.

    Args:
        describe: returns what a file is about by its content; None for a file that must not be lost.
        what: the kind of file that may be replaced, for the message.
        force: replace it whatever it is.
        or_else: what else to do than to choose another file, for the message.
        option: the option that chooses it, for the message.
        max_bytes: `describe` gets these first bytes alone.

    Raises:
        Refused: if something else is there.
    """
    found = storage.head(uri)
    if found is None:
        return None
    about = describe(storage.read_bytes(uri, length=min(found.size, max_bytes))) if found.size else None
    if about is None and found.size and not force:
        raise Refused(f"{storage.redact(uri)} is there and is not {what}; choose another {option}, or {or_else}")
    return about or f"{found.size:,} bytes"


def require_replaceable_page(uri: str, *, force: bool) -> str | None:
    """Return what an HTML page written to `uri` would replace. Raises Refused if labeler did not write that."""
    what = "a page by `labeler report` or `labeler compare`"
    return require_replaceable(uri, signature.describe_page, what, force=force, max_bytes=signature.HEAD_BYTES)


def written(uri: str, replaced: str | None) -> str:
    """Return the line that says where a file was written, and what it replaced."""
    return f"written     {storage.redact(uri)}" + (f", replaces {replaced}" if replaced else "")

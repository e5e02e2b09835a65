"""The pages of a bucket's listing, up to its real end; a listing without one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from labeler.errors import StorageError
from labeler.storage.failures import Transient
from labeler.storage.redaction import redact
from labeler.storage.retries import Patience

Page = Mapping[str, Any]
_MARKS = ("Name", "KeyCount", "MaxKeys", "IsTruncated")  # every listing has one of them


def contents_of(uri: str, ask: Callable[[dict[str, str]], Page]) -> Iterator[list[dict[str, Any]]]:
    """The objects of each page of a listing, in the order of the store.

    Args:
        ask: gets the page of a ContinuationToken, or the one StartAfter a key, or the first page ({}).
            May raise Transient.

    Raises:
        StorageError: if the store does not answer, or its listing has no end.
    """
    patience, where, seen = Patience(uri), dict[str, str](), set[str]()
    while True:
        try:
            page = ask(where)
            if not any(mark in page for mark in _MARKS):
                raise Transient("the answer is not the listing of a bucket")
        except Transient as error:
            patience.wait(error)
            continue
        patience.reset()
        found = list(page.get("Contents", []))
        after = where.get("StartAfter")
        yield found if after is None else [each for each in found if each["Key"] > after]
        if not page.get("IsTruncated"):
            return
        where = _next(uri, page, where, seen)


def _next(uri: str, page: Page, where: Mapping[str, str], seen: set[str]) -> dict[str, str]:
    """Where the page after `page` is; by the last key where the store gives no token."""
    if token := page.get("NextContinuationToken"):
        if token in seen:
            raise StorageError(f"{redact(uri)}: the listing has no end: the store repeats its continuation token")
        seen.add(token)
        return {"ContinuationToken": token}
    keys = [each["Key"] for each in page.get("Contents", [])]
    last = max([*keys, *(each["Prefix"] for each in page.get("CommonPrefixes", []))], default="")
    if last <= where.get("StartAfter", ""):
        raise StorageError(f"{redact(uri)}: the listing has no end: the store does not say where its rest is")
    return {"StartAfter": last}

"""Why an input holds nothing to label, and what to do about it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from labeler import storage
from labeler.shards import skipped
from labeler.shards.listing import Listed, shown_uris
from labeler.shards.patterns import is_glob, static_folder


def describe_nothing(uris: Sequence[str], listed: Sequence[Listed], found: Sequence[Listed], nouns: str) -> str:
    """Return a message: what there is instead, and what to do.

    Args:
        listed: all that is there.
        found: of those, what is not hidden.
        nouns: what was looked for, e.g. "a tar, Parquet or image file".
    """
    if not uris:
        return "input.uri is empty; give a folder, a pattern or a file"
    shown = shown_uris(uris)
    if found:
        kinds = Counter[str]()
        for each in found:
            skipped.count(kinds, each.info.uri)
        advice = ", or set input.format" if any(each.is_named for each in found) else ""
        files = "1 file" if len(found) == 1 else f"{len(found):,} files"
        return f"{shown} has {files} ({skipped.describe(kinds)}), but none is {nouns}; check the path{advice}"
    if listed:
        return f"{shown} has only hidden files (their names begin with . or _); rename them, or name them in full"
    missing = next((uri for uri in uris if _is_missing_here(uri)), None)
    if missing is not None:
        return (
            f"{storage.redact(missing)} does not exist on this machine; check the path, or give object storage that "
            "all machines see"
        )
    if any(map(is_glob, uris)):
        return f"no file matches {shown}; check the pattern"
    if storage.is_local(uris[0]):
        path = storage.local_path(storage.absolute_uri(uris[0]))
        if not os.path.isdir(path):
            return f"{shown} is empty, or not a regular file; check the path"
        return f"folder {shown} is empty; check the path"
    return f"{shown} has no objects; check the bucket and the prefix"


def _is_missing_here(uri: str) -> bool:
    """Return whether a local folder or file is not there, or the folder of a local pattern."""
    if not storage.is_local(uri):
        return False
    path = storage.local_path(storage.absolute_uri(uri))
    return not os.path.lexists(static_folder(path) if is_glob(path) and not os.path.lexists(path) else path)

"""What was made from a run outside of its folder: exports and pages that a deletion request has to name."""

from __future__ import annotations

import logging

from labeler import storage
from labeler.digests import digest_of
from labeler.runs import layout
from labeler.runs.manifest import Run

log = logging.getLogger(__name__)


def note_made(run: Run, uri: str) -> None:
    """Note a file or folder that is about to be made from the run; exports and pages in its own folder need no note.

    A run that cannot be written to may still be exported; that is then said in the log.
    """
    below = run.uri.rstrip("/") + "/"
    if uri.startswith(below) and _is_found(uri[len(below) :]):
        return
    try:
        noted = storage.redact(uri).encode()
        storage.put(run.path(layout.made_file(digest_of(noted))), noted)
    except storage.StorageError as error:
        log.warning("labeler forget will not name %s: %s", storage.redact(uri), error)


def _is_found(place: str) -> bool:
    """Return whether `forget` lists a place in the run's folder without a note."""
    return place.startswith(layout.EXPORTS_FOLDER + "/") or (
        "/" not in place and place.endswith((".html", layout.SAMPLE))
    )


def read_made(run: Run) -> list[str]:
    """Return what was noted and is still there, as far as one can tell."""
    noted = [info.uri for info in storage.list_objects(run.path(layout.MADE_FOLDER))]
    uris = (storage.restore_user(storage.read_bytes(note).decode(), run.uri) for note in noted)
    return sorted(uri for uri in uris if _is_there(uri))


def _is_there(uri: str) -> bool:
    if "***@" in uri or uri.endswith("?..."):  # what it takes to look there was not kept
        return True
    try:
        return storage.head(uri) is not None or next(iter(storage.list_objects(uri)), None) is not None
    except storage.StorageError:
        return True

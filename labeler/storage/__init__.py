"""The only module that accesses storage: list, read, ranged read, put-if-absent. Backends: local, s3, http, fsspec."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module

from labeler.errors import InputChanged, Refused, StorageError
from labeler.storage.failures import Unconditional, Unreadable
from labeler.storage.local_failures import is_read_only
from labeler.storage.local_writes import share_scratch
from labeler.storage.objects import ObjectInfo, OnSkipped, Store
from labeler.storage.redaction import redact, restore_user
from labeler.storage.regular_file import NOT_REGULAR, open_regular, read_regular
from labeler.storage.retries import METER, Traffic, on_trouble, retrying
from labeler.storage.s3_access import NO_S3_RULES, S3Access, S3Rules, input_rules
from labeler.storage.streams import ByteStream
from labeler.storage.uris import (
    absolute_uri,
    basename,
    expand_home,
    is_local,
    is_web,
    join,
    local_path,
    parent,
    path_of,
    printable,
    scheme,
)

__all__ = [
    "NOT_REGULAR",
    "NO_S3_RULES",
    "ByteStream",
    "InputChanged",
    "ObjectInfo",
    "OnSkipped",
    "S3Access",
    "S3Rules",
    "StorageError",
    "Traffic",
    "Unconditional",
    "Unreadable",
    "absolute_uri",
    "basename",
    "check_put_if_absent",
    "delete",
    "expand_home",
    "give_back_retries",
    "head",
    "input_rules",
    "is_local",
    "is_web",
    "join",
    "list_objects",
    "list_split",
    "local_path",
    "on_trouble",
    "open_regular",
    "open_stream",
    "parent",
    "path_of",
    "printable",
    "put",
    "put_file",
    "put_if_absent",
    "read_bytes",
    "read_regular",
    "redact",
    "remove_abandoned",
    "restore_user",
    "scheme",
    "share_scratch",
    "take_retries",
    "traffic",
]

_PROBE = b"probe"


def list_objects(
    uri_prefix: str, *, recursive: bool = True, on_skipped: OnSkipped | None = None
) -> Iterator[ObjectInfo]:
    """Return every object below a folder (not in its subfolders unless recursive), by URI; nothing without such a
    folder.

    Pages are streamed on S3. Names below a local `.tmp/` are unfinished writes and never listed. A local folder that
    several links lead to is listed under each of their paths.

    Args:
        on_skipped: called with the URI and a short reason for each local entry that cannot be listed (a link to
            nothing or to itself, an unreadable subfolder). Without it, such an entry is an error: a listing is never
            silently short.

    Raises:
        StorageError: no such bucket, no permission, or no answer.
    """
    return _store(uri_prefix).list_objects(uri_prefix, recursive=recursive, on_skipped=on_skipped)


def list_split(uri_prefix: str, beginnings: Sequence[str]) -> Iterator[ObjectInfo]:
    """Return the objects below a folder, in several listings at once where the backend has listings by prefix (S3).

    Args:
        beginnings: of the paths in that folder. Other objects may be excluded, so together they must cover all that the
            caller looks for.

    Raises:
        StorageError: as `list_objects`.
    """
    return _store(uri_prefix).list_split(uri_prefix, beginnings)


def head(uri: str) -> ObjectInfo | None:
    """Size and ETag of one object; None when there is none."""
    return retrying(uri, lambda: _store(uri).head(uri))


def read_bytes(
    uri: str, *, start: int = 0, length: int | None = None, etag: str | None = None, size: int | None = None
) -> bytes:
    """Return bytes [start, start + length) of an object, or all from `start` on; retried, the length verified.

    Args:
        etag, size: of the object as it was planned; a different one is refused.

    Raises:
        InputChanged: another ETag or size, or too short for the range.
        Unreadable: this object is missing, forbidden or archived.
        StorageError: anything else, after retries.
    """
    if length == 0:
        return b""
    store = _store(uri)
    with ByteStream(
        uri,
        lambda at, left, tag: store.open_body(uri, at, left, tag),
        start=start,
        length=length,
        size=size,
        etag=etag,
    ) as stream:
        return stream.read(length if length is not None else max(0, stream.size - start))


def open_stream(uri: str, *, size: int | None = None, etag: str | None = None, start: int = 0) -> ByteStream:
    """Return a stream of an object's bytes from `start` on; nothing is asked of storage before the first read.

    It is verified against `size` and `etag` (InputChanged), and resumes by itself after broken connections.
    """
    store = _store(uri)
    return ByteStream(
        uri,
        lambda at, left, tag: store.open_body(uri, at, left, tag),
        start=start,
        size=size,
        etag=etag,
        reopen_gap=store.reopen_gap,
    )


def put_if_absent(uri: str, data: bytes, *, single_writer: bool = False) -> bool:
    """Write an object unless it is there; never a partial object under its name. Both answers are success.

    Args:
        single_writer: the caller promises that nobody else writes there, so storage that cannot
            put-if-absent may be used as well.

    Returns:
        True when this call wrote it, False when it was there already.

    Raises:
        StorageError: it could not be written.
    """
    return _store(uri).put_if_absent(uri, data, single_writer=single_writer)


def put(uri: str, data: bytes) -> None:
    """Write an object, replacing one that is there; a reader sees the old bytes or the new."""
    _store(uri).put(uri, data)


def put_file(uri: str, local_path: str | os.PathLike[str]) -> None:
    """Upload a local file of any size, replacing an object that is there; in parts where the backend has them."""
    _store(uri).put_file(uri, local_path)


def delete(uri: str) -> None:
    """Delete an object; fine when there is none."""
    _store(uri).delete(uri)


def remove_abandoned(uri: str) -> None:
    """Remove unfinished files that killed processes left of their writes to `uri`, or below it.

    Files of a process that runs, or that cannot be seen from here and wrote in the last day, stay. What cannot be
    removed stays silently. On object storage nothing is left but unfinished multipart uploads, which stay.
    """
    _store(uri).remove_abandoned(uri)


def take_retries() -> int:
    """Second tries of this process since the last call, for who counts them; see `give_back_retries`."""
    return METER.take_retries()


def give_back_retries(count: int) -> None:
    """Give back retries that `take_retries` returned and that were not counted."""
    METER.give_back(count)


def check_put_if_absent(root: str, *, single_writer: bool) -> None:
    """Make sure that `root` keeps what is written there, and refuses the second of two writes of one object.

    Leaves nothing behind.

    Raises:
        Refused: if it is not writable or gives back other bytes, or has no put-if-absent and not `single_writer`.
    """
    if is_local(root) and is_read_only(local_path(root)):
        raise Refused(f"output {root} is on a file system that is mounted read-only; choose another output")
    store = _store(root)
    probe = join(root, ".tmp", f"probe-{uuid.uuid4().hex}")
    try:
        new_folders = store.missing_folders(probe)
        try:
            _write_probe(probe, single_writer)
            came_back = read_bytes(probe)
            overwrote = put_if_absent(probe, b"again", single_writer=single_writer)
        finally:
            try:
                delete(probe)
            finally:
                store.remove_empty_folders(new_folders)
    except StorageError as error:
        raise Refused(f"output cannot be used: {error}") from error
    if came_back != _PROBE:
        raise Refused(
            f"output {redact(root)}: storage gave back {came_back[:60]!r} for {_PROBE!r}, so it does not keep what is "
            "written; if AWS_REQUEST_CHECKSUM_CALCULATION is set, set it to when_required, or choose another output"
        )
    if overwrote and not single_writer:
        raise Refused(
            f"output {redact(root)}: storage overwrites where it should put if absent, so two jobs could spoil each "
            "other; set output.single_writer=true if only this job writes there"
        )


def _write_probe(probe: str, single_writer: bool) -> None:
    """Put the probe if absent; when storage refuses that, find out whether it takes a plain write."""
    try:
        put_if_absent(probe, _PROBE, single_writer=single_writer)
    except Unconditional:
        put(probe, _PROBE)  # raises what is really wrong, if that is not the condition
        raise


def traffic() -> Traffic:
    """Requests, retries and bytes read of this process so far."""
    return METER.read()


def _store(uri: str) -> Store:
    if is_local(uri):
        return _load("labeler.storage.local", "LocalStore")
    if scheme(uri) in ("s3", "s3a") and "::" not in uri:
        return _load("labeler.storage.s3", "S3Store")
    if is_web(uri) and "::" not in uri.partition("?")[0]:
        return _load("labeler.storage.http_store", "HttpStore")
    return _load("labeler.storage.fsspec_store", "FsspecStore")


@cache
def _load(module: str, name: str) -> Store:
    store: Store = getattr(import_module(module), name)()  # each backend is imported when first needed
    return store

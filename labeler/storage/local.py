"""Local files as objects: written whole or not at all, linked into place so that the first writer wins."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from labeler.errors import InputChanged, StorageError
from labeler.storage.local_failures import GONE, reading, writing
from labeler.storage.local_walk import TEMPORARY_FOLDER, LocalWalk
from labeler.storage.local_writes import link, replace, replace_unless_there, shared_scratch, write, write_all
from labeler.storage.objects import Body, ObjectInfo, OnSkipped, Store
from labeler.storage.redaction import redact
from labeler.storage.regular_file import open_regular
from labeler.storage.retries import retrying
from labeler.storage.scratch_names import Unfinished, folder_mark, mark, parse_local
from labeler.storage.uris import local_path


class LocalStore(Store):
    """Files of this machine, or of a file system that all machines share."""

    reopen_gap = 64 << 10

    def list_objects(
        self, uri_prefix: str, *, recursive: bool, on_skipped: OnSkipped | None = None
    ) -> Iterator[ObjectInfo]:
        base = uri_prefix.rstrip("/") or ("/" if uri_prefix else ".")
        scheme = base.removesuffix(local_path(base))
        skipped = on_skipped and (lambda path, reason: on_skipped(scheme + path, reason))
        for relative, found in LocalWalk(local_path(base), recursive=recursive, on_skipped=skipped).files():
            yield ObjectInfo(f"{base.rstrip('/')}/{relative}", found.st_size, _etag(found), found.st_mtime)

    def head(self, uri: str) -> ObjectInfo | None:
        try:
            found = os.stat(local_path(uri))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in GONE:
                return None
            raise reading(uri, error) from error
        is_file = stat.S_ISREG(found.st_mode)
        return ObjectInfo(uri, found.st_size, _etag(found), found.st_mtime) if is_file else None

    def open_body(self, uri: str, start: int, length: int | None, etag: str | None) -> Body:
        try:
            return _FileBody(uri, start, etag)
        except (OSError, ValueError) as error:
            raise reading(uri, error) from error

    def put(self, uri: str, data: bytes) -> None:
        write(uri, lambda file: write_all(file, data), replace)

    def put_if_absent(self, uri: str, data: bytes, *, single_writer: bool) -> bool:
        if os.path.lexists(local_path(uri)):
            return False
        return write(uri, lambda file: write_all(file, data), replace_unless_there if single_writer else link)

    def put_file(self, uri: str, local_path: str | os.PathLike[str]) -> None:
        if not os.path.isfile(local_path):
            raise StorageError(f"{redact(uri)} cannot be written: there is no file {local_path}")

        def copy(file: int) -> None:
            with open_regular(local_path) as source, open(file, "wb", closefd=False) as target:
                shutil.copyfileobj(source, target, 1 << 20)

        write(uri, copy, replace)

    def delete(self, uri: str) -> None:
        def attempt() -> None:
            try:
                os.unlink(local_path(uri))
            except OSError as error:
                if error.errno not in GONE - {errno.EISDIR}:
                    raise writing(uri, error) from error

        retrying(uri, attempt)

    def remove_abandoned(self, uri: str) -> None:
        remove_abandoned(os.path.abspath(local_path(uri)))

    def missing_folders(self, uri: str) -> list[str]:
        missing: list[str] = []
        folder = os.path.dirname(local_path(uri))
        while folder and not os.path.lexists(folder):
            missing.insert(0, folder)
            folder = os.path.dirname(folder)
        return missing

    def remove_empty_folders(self, uris: list[str]) -> None:
        for folder in reversed(uris):
            with suppress(OSError):
                os.rmdir(local_path(folder))


class _FileBody:
    is_whole = False

    def __init__(self, uri: str, start: int, etag: str | None) -> None:
        self._uri = uri
        self._file = open_regular(local_path(uri)).detach()  # unbuffered; closed by close()
        found = os.fstat(self._file.fileno())
        self.size = found.st_size
        self.etag: str | None = _etag(found)
        if etag is not None and etag != self.etag:
            self._file.close()
            raise InputChanged(
                f"{redact(uri)} changed: its ETag was {etag}, now it is {self.etag}; "
                "restore it, or label it in another run"
            )
        self._file.seek(start)

    def read(self, n: int) -> bytes:
        try:
            return self._file.read(n) or b""
        except OSError as error:
            raise reading(self._uri, error) from error

    def close(self) -> None:
        self._file.close()


def _etag(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns}-{found.st_size}"


def remove_abandoned(path: str) -> None:
    """Remove what was left of writes to the file `path`, or to files below the folder `path`.

    What cannot be removed stays: it is never listed.
    """
    folder, name = os.path.split(path)
    _tidy(folder, lambda left: left.name == mark(name))
    for below, folders, _ in os.walk(path):
        if TEMPORARY_FOLDER in folders:
            folders.remove(TEMPORARY_FOLDER)
        _tidy(below, lambda left: True)


def _tidy(folder: str, is_wanted: Callable[[Unfinished], bool]) -> None:
    """Remove what is abandoned, and wanted, of writes into one folder."""
    with suppress(OSError):
        beside, shared = os.path.join(folder, TEMPORARY_FOLDER), shared_scratch(folder)
        for scratch in {beside, shared or beside}:
            if not os.path.islink(scratch):
                _tidy_scratch(scratch, folder_mark(scratch, folder), is_wanted)
        if beside != shared:
            os.rmdir(beside)  # not empty: somebody else is writing


def _tidy_scratch(scratch: str, folder: str, is_wanted: Callable[[Unfinished], bool]) -> None:
    with suppress(OSError), os.scandir(scratch) as entries:
        for entry in entries:
            left = parse_local(entry.name)
            if left is None or left.folder != folder or not is_wanted(left):
                continue
            with suppress(OSError):  # another export removes it, too
                found = entry.stat(follow_symlinks=False)
                if left.is_abandoned(found.st_mtime):
                    os.unlink(entry.path)

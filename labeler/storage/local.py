"""Local files as objects: written whole or not at all, linked into place so that the first writer wins."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator

from labeler.errors import InputChanged, StorageError
from labeler.storage.failures import Transient, Unconditional
from labeler.storage.local_failures import GONE, reading, said, writing
from labeler.storage.local_walk import TEMPORARY_FOLDER, LocalWalk
from labeler.storage.objects import Body, ObjectInfo, OnSkipped
from labeler.storage.retries import retrying
from labeler.storage.uris import local_path, redact

_RUN_MARKER = "run.json"
_FOLDER_TRIES = 100
_RUN_DEPTH = 3  # a run's deepest file is labels/<shard>/<unit>.parquet
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalStore:
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
        _write(uri, lambda file: _write_all(file, data), _replace)

    def put_if_absent(self, uri: str, data: bytes, *, single_writer: bool) -> bool:
        if os.path.lexists(local_path(uri)):
            return False
        return _write(uri, lambda file: _write_all(file, data), _replace_unless_there if single_writer else _link)

    def put_file(self, uri: str, local_path: str | os.PathLike[str]) -> None:
        if not os.path.isfile(local_path):
            raise StorageError(f"{redact(uri)} cannot be written: there is no file {local_path}")

        def copy(file: int) -> None:
            with open(local_path, "rb") as source, open(file, "wb", closefd=False) as target:
                shutil.copyfileobj(source, target, 1 << 20)

        _write(uri, copy, _replace)

    def delete(self, uri: str) -> None:
        try:
            os.unlink(local_path(uri))
        except OSError as error:
            if error.errno not in GONE - {errno.EISDIR}:
                raise writing(uri, error) from error

    def missing_folders(self, uri: str) -> list[str]:
        missing: list[str] = []
        folder = os.path.dirname(local_path(uri))
        while folder and not os.path.lexists(folder):
            missing.insert(0, folder)
            folder = os.path.dirname(folder)
        return missing

    def remove_empty_folders(self, uris: list[str]) -> None:
        for folder in reversed(uris):
            with contextlib.suppress(OSError):
                os.rmdir(local_path(folder))


class _FileBody:
    is_whole = False

    def __init__(self, uri: str, start: int, etag: str | None) -> None:
        self._uri = uri
        self._file = open(local_path(uri), "rb", buffering=0)  # noqa: SIM115 - closed by close()
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


# ---- writing: a temporary file, then one step that makes it visible

_Publish = Callable[[str, str], bool]  # (temporary path, final path) -> written


def _write(uri: str, fill: Callable[[int], None], publish: _Publish) -> bool:
    path = os.path.abspath(local_path(uri))

    def attempt() -> bool:
        try:
            return _write_once(path, fill, publish)
        except FileNotFoundError as error:  # a neighbour tidied a folder away between two of our steps
            raise Transient(said(error)) from error
        except (OSError, ValueError) as error:
            os_error = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
            raise writing(uri, os_error) from error

    return retrying(uri, attempt)


def _write_once(path: str, fill: Callable[[int], None], publish: _Publish) -> bool:
    folder = os.path.dirname(path)
    _make_folder(folder)
    scratch, is_ours_alone = _scratch_folder(folder)
    temporary = os.path.join(scratch, uuid.uuid4().hex)
    try:
        file = _open_new(temporary)
        try:
            fill(file)
            os.fsync(file)
        finally:
            os.close(file)
        written = publish(temporary, path)
        if written:
            _sync_folder(folder)
        return written
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if is_ours_alone:
            with contextlib.suppress(OSError):  # not empty: somebody else is writing
                os.rmdir(scratch)


def _open_new(path: str) -> int:
    """A new file, with its folder; another writer that has just finished may take the empty folder away meanwhile."""
    for left in reversed(range(_FOLDER_TRIES)):
        try:
            _make_folder(os.path.dirname(path))
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except (FileNotFoundError, NotADirectoryError):
            if not left:
                raise
    raise AssertionError("unreachable")


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(file, rest) :]


def _link(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise Unconditional(
                f"{path}: this file system has no hard links, so it cannot put if absent; "
                "set output.single_writer=true if only one job writes there"
            ) from error
        raise
    return True


def _replace(temporary: str, path: str) -> bool:
    os.replace(temporary, path)
    return True


def _replace_unless_there(temporary: str, path: str) -> bool:
    try:
        return _link(temporary, path)
    except StorageError:
        return False if os.path.lexists(path) else _replace(temporary, path)


def _scratch_folder(folder: str) -> tuple[str, bool]:
    """Where the temporary file goes, and whether to remove that folder afterwards.

    The run's own `.tmp/` when `folder` belongs to a run on the same device, else one beside the file.
    """
    root = folder
    for _ in range(_RUN_DEPTH):
        if os.path.isfile(os.path.join(root, _RUN_MARKER)):
            if os.stat(root).st_dev == os.stat(folder).st_dev:
                return os.path.join(root, TEMPORARY_FOLDER), False
            break
        root = os.path.dirname(root)
    return os.path.join(folder, TEMPORARY_FOLDER), True


def _make_folder(folder: str) -> None:
    """`folder` and those above it, each one durable before anything is put into it."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    with contextlib.suppress(FileExistsError):
        try:
            os.mkdir(folder)
        except FileNotFoundError as error:
            if os.path.isdir(above):  # a file system that takes no folders (/proc, an automounter), not a neighbour
                raise PermissionError(errno.EPERM, f"no folder can be made in {above}") from error
            raise
        _sync_folder(above)
    if os.path.islink(folder) and not os.path.exists(folder):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a link to nowhere")
    if not stat.S_ISDIR(os.stat(folder).st_mode):  # a neighbour may have tidied it away since: that is tried again
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and need not
            raise
    finally:
        os.close(handle)

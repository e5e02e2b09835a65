"""Every other protocol, through fsspec: conditional writes on gs://, elsewhere only for a single writer."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from labeler.errors import InputChanged, LabelerError
from labeler.storage.causes import explain
from labeler.storage.failures import INVALID, MISSING, Transient, Unconditional, Unreadable
from labeler.storage.objects import Body, ObjectInfo, OnSkipped, Store
from labeler.storage.redaction import redact
from labeler.storage.retries import retrying
from labeler.storage.scratch_names import name_beside, parse_beside
from labeler.storage.uris import basename, one_line, parent, scheme

T = TypeVar("T")
_ETAGS = ("etag", "ETag", "md5Hash", "generation", "crc32c", "content_md5", "checksum")
_MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "modified")
_CONDITIONAL = {"gs", "gcs"}
_MOVES_ATOMICALLY = {"local", "file", "sftp", "ssh", "hdfs", "webhdfs", "smb"}  # elsewhere an upload is atomic
_WHOLE_BYTES = 8 << 20  # a range up to this size is fetched by one call


class FsspecStore(Store):
    """Whatever file systems fsspec knows, each with its own package and credentials."""

    reopen_gap = 1 << 20

    def list_objects(
        self, uri_prefix: str, *, recursive: bool, on_skipped: OnSkipped | None = None
    ) -> Iterator[ObjectInfo]:
        fs, root = _open_file_system(uri_prefix)
        base, root = uri_prefix.rstrip("/"), root.rstrip("/")

        for name, info in sorted(_found(fs, uri_prefix, root, recursive).items()):
            if not name.startswith(root + "/") or parse_beside(name.rpartition("/")[2]):
                continue  # an unfinished write is not listed, as on local disks
            if info.get("type", "file") == "file":
                yield _info(base + name.removeprefix(root), info)

    def head(self, uri: str) -> ObjectInfo | None:
        fs, path = _open_file_system(uri)
        try:
            info = _explained(uri, lambda: fs.info(path))
        except Unreadable as error:
            if error.reason == MISSING:
                return None
            raise
        return _info(uri, info) if info.get("type", "file") == "file" else None

    def open_body(self, uri: str, start: int, length: int | None, etag: str | None) -> Body:
        return _explained(uri, lambda: _open(uri, start, length, etag))

    def put(self, uri: str, data: bytes) -> None:
        fs, path = _open_file_system(uri)

        def write() -> None:
            if scheme(uri) not in _MOVES_ATOMICALLY:
                fs.pipe_file(path, data)
                return
            folder, _, name = path.rpartition("/")
            temporary = f"{folder}/{name_beside(name)}"
            fs.makedirs(folder, exist_ok=True)
            try:
                fs.pipe_file(temporary, data)
                fs.mv(temporary, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(temporary)
                raise

        retrying(uri, lambda: _explained(uri, write))

    def put_if_absent(self, uri: str, data: bytes, *, single_writer: bool) -> bool:
        fs, path = _open_file_system(uri)
        if scheme(uri) in _CONDITIONAL:
            return retrying(uri, lambda: _explained(uri, lambda: _create(fs, path, data)))
        if not single_writer:
            raise Unconditional(
                f"{redact(uri)}: {scheme(uri)}:// has no put-if-absent here; "
                "set output.single_writer=true if only one job writes there"
            )
        if retrying(uri, lambda: self.head(uri)) is not None:
            return False
        self.put(uri, data)
        return True

    def put_file(self, uri: str, local_path: str | os.PathLike[str]) -> None:
        fs, path = _open_file_system(uri)

        def upload() -> None:
            if scheme(uri) in _MOVES_ATOMICALLY:
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.put_file(os.fspath(local_path), path)

        retrying(uri, lambda: _explained(uri, upload))

    def delete(self, uri: str) -> None:
        fs, path = _open_file_system(uri)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                fs.rm_file(path)

        retrying(uri, lambda: _explained(uri, remove))

    def remove_abandoned(self, uri: str) -> None:
        if scheme(uri) not in _MOVES_ATOMICALLY:
            return
        with contextlib.suppress(LabelerError):
            _remove_abandoned(uri, None)
            _remove_abandoned(parent(uri), basename(uri))

    def missing_folders(self, uri: str) -> list[str]:
        missing: list[str] = []
        if scheme(uri) in _MOVES_ATOMICALLY:
            folder = parent(uri)
            fs, path = _open_file_system(folder)
            while path.strip("/") and not _is_there(fs, folder, path):
                missing.insert(0, folder)
                folder = parent(folder)
                path = path.rpartition("/")[0]
        return missing

    def remove_empty_folders(self, uris: list[str]) -> None:
        for uri in reversed(uris):
            fs, path = _open_file_system(uri)
            with contextlib.suppress(Exception):  # not empty: somebody else is writing there
                fs.rmdir(path)


def _open_file_system(uri: str) -> tuple[Any, str]:
    """Return the file system (fsspec keeps one per process and settings) and the path in it; listings
    are never cached.
    """
    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise Unreadable(f"{redact(uri)}: {one_line(error)}; install that package on every node", INVALID) from error
    except Exception as error:
        raise Unreadable(f"{redact(uri)}: fsspec cannot open this address ({one_line(error)})", INVALID) from error
    return fs, path


def _explained(uri: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except (LabelerError, Transient):
        raise
    except Exception as error:
        raise explain(uri, error) from error


def _is_there(fs: Any, uri: str, path: str) -> bool:
    """Return whether a file or folder is there; fsspec's own `exists` takes every failure for a no."""
    return _if_there(uri, lambda: fs.info(path)) is not None


def _remove_abandoned(folder: str, name: str | None) -> None:
    """Remove unfinished files that have been abandoned: those of one name in a folder, or all below it."""
    fs, root = _open_file_system(folder)
    for path, info in _found(fs, folder, root.rstrip("/"), name is None).items():
        left = parse_beside(path.rpartition("/")[2])
        if left and name in (None, left.name) and left.is_abandoned(_modified(info)):
            with contextlib.suppress(Exception):  # another export removes it, too
                fs.rm_file(path)


def _found(fs: Any, uri: str, root: str, recursive: bool) -> dict[str, dict[str, Any]]:
    """Return everything below a folder, by path; {} without such a folder. Retries by itself.

    The walk of fsspec omits folders that it cannot list, silently: it is done here, but for stores that list at once.
    """
    walks = type(fs).find is fsspec.AbstractFileSystem.find or getattr(type(fs), "_find", None) is AsyncFileSystem._find
    if walks:
        return dict(_walk(fs, uri, root, recursive))
    depth = None if recursive else 1
    return dict(_if_there(uri, lambda: fs.find(root, detail=True, maxdepth=depth)) or {})


def _walk(fs: Any, uri: str, folder: str, recursive: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for info in _if_there(uri, lambda: fs.ls(folder, detail=True)) or ():
        name = str(info["name"]).rstrip("/")
        if info.get("type") != "directory":
            yield name, info
        elif recursive and name != folder:
            yield from _walk(fs, uri, name, recursive)


def _if_there(uri: str, call: Callable[[], T]) -> T | None:
    """Return what `call` returns, after retries; None if nothing is there."""
    try:
        return retrying(uri, lambda: _explained(uri, call))
    except Unreadable as error:
        if error.reason == MISSING:
            return None
        raise


def _info(uri: str, info: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(uri, int(info.get("size") or 0), _etag(info), _modified(info))


def _modified(info: dict[str, Any]) -> float | None:
    """File systems say it as a number, a datetime, or text of RFC 3339."""
    found = next((info[name] for name in _MODIFIED if info.get(name)), None)
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return None
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, int | float) else None


def _etag(info: dict[str, Any]) -> str | None:
    found = next((info[name] for name in _ETAGS if info.get(name)), None)
    return None if found is None else str(found).strip('"')


def _create(fs: Any, path: str, data: bytes) -> bool:
    """gcsfs sends if_generation_match=0 for mode="create"."""
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except Exception as error:
        if str(getattr(error, "code", "")) == "412":
            return False
        raise
    return True


def _open(uri: str, start: int, length: int | None, etag: str | None) -> Body:
    fs, path = _open_file_system(uri)
    info = fs.info(path)
    found = _etag(info)
    if etag is not None and found is not None and etag != found:
        raise InputChanged(
            f"{redact(uri)} changed: its ETag was {etag}, now it is {found}; restore it, or label it in another run"
        )
    if info.get("type", "file") != "file":
        raise FileNotFoundError(path)
    size = info.get("size")
    if size is None:  # a web server that does not say: all of it is needed to know
        data = fs.cat_file(path)
        return _FsspecBody(uri, io.BytesIO(data[start:]), len(data), found)
    if length is not None and length <= _WHOLE_BYTES:
        end = min(start + length, size)
        data = fs.cat_file(path, start=start, end=end) if start < size else b""
        if len(data) > max(0, end - start):
            raise Transient(f"asked for bytes {start} to {end}, storage sent {len(data)}")
        return _FsspecBody(uri, io.BytesIO(data), size, found)
    file = fs.open(path, "rb")
    try:
        file.seek(start)
    except BaseException:
        file.close()
        raise
    return _FsspecBody(uri, file, size, found)


class _FsspecBody:
    is_whole = False

    def __init__(self, uri: str, file: Any, size: int, etag: str | None) -> None:
        self._uri, self._file, self.size, self.etag = uri, file, int(size), etag

    def read(self, n: int) -> bytes:
        return _explained(self._uri, lambda: bytes(self._file.read(n)))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._file.close()

"""List the files below a local folder: one bad entry is that entry's error, never the end of its folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from labeler.errors import StorageError
from labeler.storage.failures import Transient
from labeler.storage.local_failures import GONE, PASSING, said
from labeler.storage.objects import OnSkipped
from labeler.storage.regular_file import NOT_REGULAR
from labeler.storage.retries import retrying

TEMPORARY_FOLDER = ".tmp"
_DEAD_LINK = "a link to nothing"

_Id = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class _Folder:
    """A folder that is being listed.

    Attributes:
        relative: its path below the first folder, "" or with a slash at its end.
        above: ids of the folder and of all that it was reached through.
        is_alias: whether a link led here to what is listed under another path, too.
        names: what is left of it, sorted backwards; those of folders with a slash at their end.
    """

    path: str
    relative: str
    above: frozenset[_Id]
    is_alias: bool
    names: list[str]


class LocalWalk:
    """Every regular file below `root`, in order of its path. Links are followed, but not in circles.

    A folder that several links lead to has its files listed under each of their paths. Inside such a repeated
    folder, links to what is listed anyway are not followed: the paths would multiply without end.

    Args:
        on_skipped: called for each entry that cannot be listed; without it the first one is a StorageError.
    """

    def __init__(self, root: str, *, recursive: bool, on_skipped: OnSkipped | None) -> None:
        self._root = root
        self._real_root = os.path.join(os.path.realpath(root), "")
        self._recursive = recursive
        self._on_skipped = on_skipped
        self._seen: set[_Id] = set()

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (path below the root, stat) of every file; nothing where the root is not a folder."""
        first = self._opened(self._root, "", None, is_link=False)
        stack = [first] if first else []
        while stack:
            folder = stack[-1]
            if not folder.names:
                stack.pop()
                continue
            name = folder.names.pop()
            path, relative = os.path.join(folder.path, name), folder.relative + name
            if not name.endswith("/"):
                if found := self._file(path):
                    yield relative, found
            elif self._recursive and name != TEMPORARY_FOLDER + "/":
                below = self._opened(path.rstrip("/"), relative, folder, is_link=os.path.islink(path.rstrip("/")))
                stack += [below] if below else []

    def _opened(self, path: str, relative: str, parent: _Folder | None, *, is_link: bool) -> _Folder | None:
        """Return the folder with its names; None where there is none, or its files are listed under another path
        anyhow.
        """
        try:
            own, names = retrying(path, lambda: _listed(path))
        except _Gone:
            return None
        except (OSError, ValueError, StorageError) as error:
            self._skip(path, _reason(error), error, is_root=parent is None)
            return None
        above = parent.above if parent else frozenset()
        is_repeated = is_link and (own in self._seen or os.path.realpath(path).startswith(self._real_root))
        if own in above or (is_repeated and parent is not None and parent.is_alias):
            return None
        self._seen.add(own)
        is_alias = is_repeated or (parent is not None and parent.is_alias)
        return _Folder(path, relative, above | {own}, is_alias, names)

    def _file(self, path: str) -> os.stat_result | None:
        """None for what is not a file, or not there any more."""
        try:
            found = retrying(path, lambda: _stat(path))
        except (OSError, StorageError) as error:
            code = error.errno if isinstance(error, OSError) else None
            if code not in GONE or os.path.islink(path):
                self._skip(path, _DEAD_LINK if code == errno.ENOENT else _reason(error), error)
            return None
        if stat.S_ISREG(found.st_mode):
            return found
        if self._on_skipped and not stat.S_ISDIR(found.st_mode):
            self._on_skipped(path, NOT_REGULAR)
        return None

    def _skip(self, path: str, reason: str, error: Exception, *, is_root: bool = False) -> None:
        if self._on_skipped is None or is_root:
            raise StorageError(f"{path} cannot be listed: {reason}; check the path and its permissions") from error
        self._on_skipped(path, reason)


class _Gone(Exception):
    """The folder is not there, or is not a folder."""


def _listed(path: str) -> tuple[_Id, list[str]]:
    """Return (id, names in reverse order) of a folder; a link to a folder counts as one."""
    try:
        own = os.stat(path)
        if not stat.S_ISDIR(own.st_mode):
            raise _Gone
        with os.scandir(path) as entries:
            names = [entry.name + "/" if _is_folder(entry) else entry.name for entry in entries]
    except OSError as error:
        if error.errno in GONE:
            raise _Gone from error
        if error.errno in PASSING:
            raise Transient(said(error)) from error
        raise
    return (own.st_dev, own.st_ino), sorted(names, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False where its kind cannot be had: the error comes again, and is named, when it is looked at as a file."""
    with suppress(OSError):
        return entry.is_dir()
    return False


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in PASSING:
            raise Transient(said(error)) from error
        raise


def _reason(error: Exception) -> str:
    """Return the system's words, also of an error that did not pass."""
    cause = error.__cause__ if isinstance(error, StorageError) else None
    return said(cause if isinstance(cause, Exception) else error)

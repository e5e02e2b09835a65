"""What the operating system's error numbers mean: passing, missing, denied, malformed, full."""

from __future__ import annotations

import errno
import os

from labeler.errors import StorageError
from labeler.storage.failures import DENIED, INVALID, MISSING, Transient, Unreadable
from labeler.storage.redaction import redact
from labeler.storage.regular_file import NOT_REGULAR, NotRegularError

GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
PASSING = {errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MALFORMED = {errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}
_ADVICE = "check the file system, then run again"
_DENIED = {errno.EACCES, errno.EPERM}


def reading(uri: str, error: Exception) -> Exception:
    """Return what `error`, met while one file was read, is to the rest of labeler."""
    shown = redact(uri)
    code = error.errno if isinstance(error, OSError) else errno.EINVAL
    if code in PASSING:
        return Transient(said(error), _ADVICE)
    if isinstance(error, NotRegularError):
        return Unreadable(f"{shown}: {NOT_REGULAR} but a pipe, socket or device; give a file", NOT_REGULAR)
    if code in GONE:
        return Unreadable(f"{shown}: no such file", MISSING)
    if code in _DENIED:
        return Unreadable(f"{shown}: permission denied; check who may read it", DENIED)
    if code in _MALFORMED:
        return Unreadable(f"{shown}: {said(error)}", INVALID)
    return StorageError(f"{shown} cannot be read: {said(error)}")


def writing(uri: str, error: OSError) -> Exception:
    """Return what `error`, met while a file was written or deleted, is to the rest of labeler."""
    shown = redact(uri)
    if error.errno in PASSING:
        return Transient(said(error), _ADVICE)
    if error.errno in _NO_SPACE:
        return StorageError(f"{shown}: no space left ({said(error)}); free some, then run again")
    if error.errno == errno.EROFS:  # remounted because of a fault, and perhaps back in a moment
        return Transient(said(error), "remount it for writing, then run again")
    if error.errno in _DENIED:
        return StorageError(f"{shown} cannot be written: {said(error)}; check the permissions")
    return StorageError(f"{shown} cannot be written: {said(error)}")


def is_read_only(path: str) -> bool:
    """Return whether the file system of a path, or of the nearest folder above it that exists, is mounted read-only."""
    folder = os.path.abspath(path)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def said(error: Exception) -> str:
    """Return the system's own short text for `error`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

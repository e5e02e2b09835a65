"""What the operating system's error numbers mean: passing, missing, denied, malformed, full."""

from __future__ import annotations

import errno

from labeler.errors import StorageError
from labeler.storage.failures import DENIED, INVALID, MISSING, Transient, Unreadable
from labeler.storage.uris import redact

GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
PASSING = {errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MALFORMED = {errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}
_DENIED = {errno.EACCES, errno.EPERM}


def reading(uri: str, error: Exception) -> Exception:
    """What `error`, met while one file was read, is to the rest of labeler."""
    shown = redact(uri)
    code = error.errno if isinstance(error, OSError) else errno.EINVAL
    if code in PASSING:
        return Transient(said(error))
    if code in GONE:
        return Unreadable(f"{shown}: no such file", MISSING)
    if code in _DENIED:
        return Unreadable(f"{shown}: permission denied; check who may read it", DENIED)
    if code in _MALFORMED:
        return Unreadable(f"{shown}: {said(error)}", INVALID)
    return StorageError(f"{shown} cannot be read: {said(error)}")


def writing(uri: str, error: OSError) -> StorageError:
    """What `error`, met while a file was written or deleted, is to the rest of labeler."""
    shown = redact(uri)
    if error.errno in _NO_SPACE:
        return StorageError(f"{shown}: no space left ({said(error)}); free some, then run again")
    if error.errno in _DENIED | {errno.EROFS}:
        return StorageError(f"{shown} cannot be written: {said(error)}; check the permissions")
    return StorageError(f"{shown} cannot be written: {said(error)}")


def said(error: Exception) -> str:
    """The system's own short text for `error`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

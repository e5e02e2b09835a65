"""Write local files whole or not at all: a temporary file, then one step that makes it visible."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Collection

from labeler.errors import StorageError
from labeler.storage.failures import Transient, Unconditional
from labeler.storage.local_failures import is_read_only, said, writing
from labeler.storage.local_walk import TEMPORARY_FOLDER
from labeler.storage.redaction import redact
from labeler.storage.regular_file import NOT_REGULAR
from labeler.storage.retries import retrying
from labeler.storage.scratch_names import local_name
from labeler.storage.uris import local_path

log = logging.getLogger(__name__)
_FOLDER_TRIES = 100
_NO_LINKS = {
    errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK,
    errno.EXDEV, errno.EIO, errno.EACCES, errno.EROFS, errno.EINVAL, errno.ENOTTY,
}  # fmt: skip
# What file systems on the network, and in user space, answer to an fsync that they do not have.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_FOLDER_SYNC = _NO_SYNC | {errno.EBADF, errno.EPERM, errno.EACCES, errno.EISDIR}

Publish = Callable[[str, str], bool]  # (temporary path, final path) -> written


def write(uri: str, fill: Callable[[int], None], publish: Publish) -> bool:
    """Write a file by `fill`, which is given a descriptor, and return whether `publish` put it in its place.

    Raises:
        StorageError: if it cannot be written; errors that pass are tried again before.
    """
    path = os.path.abspath(local_path(uri))

    def attempt() -> bool:
        _refuse_special(path)
        try:
            return _write_once(path, fill, publish)
        except FileNotFoundError as error:  # another process removed a folder between two steps
            raise Transient(said(error)) from error
        except (OSError, ValueError) as error:
            os_error = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
            raise writing(uri, os_error) from error

    return retrying(uri, attempt)


def _refuse_special(path: str) -> None:
    """A write replaces what has the name: that must not be /dev/null, or a pipe that somebody reads."""
    with contextlib.suppress(OSError, ValueError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise StorageError(f"{redact(path)} cannot be written: it is {NOT_REGULAR}; choose another name")


def _write_once(path: str, fill: Callable[[int], None], publish: Publish) -> bool:
    folder = os.path.dirname(path)
    _make_folder(folder)
    beside = os.path.join(folder, TEMPORARY_FOLDER)
    shared = shared_scratch(folder)
    if shared:
        try:
            return _write_through(shared, path, fill, publish)
        except OSError as error:
            if error.errno != errno.EXDEV or shared == beside:
                raise  # else: one disk, but `folder` is mounted on its own
    try:
        return _write_through(beside, path, fill, publish)
    finally:
        with contextlib.suppress(OSError):  # not empty: somebody else is writing
            os.rmdir(beside)


def _write_through(scratch: str, path: str, fill: Callable[[int], None], publish: Publish) -> bool:
    folder = os.path.dirname(path)
    temporary = os.path.join(scratch, local_name(scratch, path))
    try:
        file = _open_new(temporary)
        try:
            fill(file)
            _sync(file, temporary, _NO_SYNC, "files")
        finally:
            os.close(file)
        written = publish(temporary, path)
        if written:
            _sync_folder(folder)
        return written
    finally:
        with contextlib.suppress(OSError):  # what is left there is never listed, see also abandoned.py
            os.unlink(temporary)


def _open_new(path: str) -> int:
    """Return a new file, with its folder; another writer that has just finished may take the empty folder away
    meanwhile.
    """
    for left in reversed(range(_FOLDER_TRIES)):
        try:
            _make_folder(os.path.dirname(path))
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except (FileNotFoundError, NotADirectoryError):
            if not left:
                raise
    raise AssertionError("unreachable")


def write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(file, rest) :]


def link(temporary: str, path: str) -> bool:
    """Give the temporary file its name unless that is taken; Unconditional where there are no hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno == errno.EROFS and is_read_only(path):
            raise  # remounted meanwhile: tried again like any write
        is_beside = os.path.dirname(os.path.dirname(temporary)) == os.path.dirname(path)
        if error.errno not in _NO_LINKS or (error.errno == errno.EXDEV and not is_beside):
            raise
        if error.errno != errno.EXDEV and _can_link(temporary):
            raise  # this file system has hard links: it is the folder that takes no file
        raise Unconditional(
            f"{redact(path)}: this file system makes no hard links there ({said(error)}), so it cannot put if absent; "
            "set output.single_writer=true if only one job writes there"
        ) from error
    return True


def _can_link(temporary: str) -> bool:
    """Return whether a second name can be made beside the temporary file, in a folder that is known to take files."""
    again = temporary + "-again"
    try:
        os.link(temporary, again)
        os.unlink(again)
    except OSError:
        return False
    return True


def replace(temporary: str, path: str) -> bool:
    """Give the temporary file its name, whether that is taken or not."""
    os.replace(temporary, path)
    return True


def replace_unless_there(temporary: str, path: str) -> bool:
    """As `link`, but by a rename where there are no hard links: right only for a single writer."""
    try:
        return link(temporary, path)
    except StorageError:
        return False if os.path.lexists(path) else replace(temporary, path)


_depth_below: dict[str, int] = {}  # name of a file that marks a folder -> how deep files are below that folder


def share_scratch(marker: str, *, depth: int) -> None:
    """Have what is written below a local folder that holds a file `marker` wait in one `.tmp/`, that folder's own.

    Args:
        depth: how many folders deep files lie there, that folder counted.
    """
    _depth_below[marker] = depth


def shared_scratch(folder: str) -> str | None:
    """Return the `.tmp/` that `folder` shares with others, on the same device; None where it shares none."""
    root = folder
    for above in range(max(_depth_below.values(), default=0)):
        markers = (marker for marker, depth in _depth_below.items() if above < depth)
        if any(os.path.isfile(os.path.join(root, marker)) for marker in markers):
            is_same_device = os.stat(root).st_dev == os.stat(folder).st_dev
            return os.path.join(root, TEMPORARY_FOLDER) if is_same_device else None
        root = os.path.dirname(root)
    return None


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
            if os.path.isdir(above):  # a file system that takes no folders (/proc, an automounter), not a neighbor
                raise PermissionError(errno.EPERM, f"no folder can be made in {above}") from error
            raise
        _sync_folder(above)
    if os.path.islink(folder) and not os.path.exists(folder):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a link to nowhere")
    if not stat.S_ISDIR(os.stat(folder).st_mode):  # a neighbor may have tidied it away since: that is tried again
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")


def _sync_folder(folder: str) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _note_no_sync(error, folder, _NO_FOLDER_SYNC, "folders")
        return
    try:
        _sync(handle, folder, _NO_FOLDER_SYNC, "folders")
    finally:
        os.close(handle)


def _sync(handle: int, path: str, no_sync: Collection[int], what: str) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        _note_no_sync(error, path, no_sync, what)


_noted: set[str] = set()


def _note_no_sync(error: OSError, path: str, no_sync: Collection[int], what: str) -> None:
    """Warn once that a file system has no fsync; any other error of it is raised."""
    if error.errno not in no_sync:
        raise error
    if what not in _noted:
        _noted.add(what)
        log.warning(
            "%s: this file system cannot fsync %s (%s); what was written last may be lost if a machine loses power",
            redact(path), what, said(error),
        )  # fmt: skip

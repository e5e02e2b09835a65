"""Standard output and error: what cannot be written (a reader that went away, a full disk), and what is not shown."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_FAILED = 1
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def after_output(code: int, error: OSError | None = None) -> int:
    """Write out what was printed, and return the command's exit code: `code`, or 1 if not all could be written.

    A reader that went away (`| head`) has all it wanted. Nothing is left for the interpreter to write at its end, which
    would print a traceback.

    Args:
        error: what a `print` of the command raised, if one did.
    """
    try:
        if error is not None:
            raise error
        _flush(sys.stdout)
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as failure:
        _discard(sys.stdout)
        complain(f"labeler: the output cannot be written: {failure.strerror}")
        code = code or _FAILED
    try:
        _flush(sys.stderr)
    except OSError:
        _discard(sys.stderr)
    return code


def is_of_output(error: OSError) -> bool:
    """Return whether an error that ends a command says that its output, which has no file name, is closed or full."""
    return isinstance(error, BrokenPipeError) or (error.errno in _FULL and error.filename is None)


def complain(*lines: str) -> None:
    """Print lines to standard error, if anybody can read them."""
    with suppress(OSError):
        for line in lines:
            print(line, file=sys.stderr)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """While inside, drop what this process writes to descriptor 2: native code (C++, Rust) does not use `sys.stderr`.

    For calls whose failures are raised as exceptions anyway.
    """
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _flush(stream: TextIO | None) -> None:
    if stream is not None and not stream.closed:  # `>&-` leaves none
        stream.flush()


def _discard(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

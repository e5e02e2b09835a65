"""Standard output and error that cannot be written: a reader that went away, a full disk."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

_FAILED = 1


def after_output(code: int) -> int:
    """Write out what was printed, and return the command's exit code: `code`, or 1 if not all could be written.

    A reader that went away (`| head`) has all it wanted. Nothing is left for the interpreter to write at its end, which
    would print a traceback.
    """
    try:
        _flush(sys.stdout)
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        complain(f"labeler: the output cannot be written: {error.strerror}")
        code = code or _FAILED
    with suppress(OSError):
        _flush(sys.stderr)
        return code
    _discard(sys.stderr)
    return code


def is_output_broken() -> bool:
    """Whether standard output takes nothing any more."""
    try:
        _flush(sys.stdout)
    except OSError:
        return True
    return False


def complain(*lines: str) -> None:
    """Print lines to standard error, if anybody can read them."""
    with suppress(OSError):
        for line in lines:
            print(line, file=sys.stderr)


def _flush(stream: TextIO | None) -> None:
    if stream is not None and not stream.closed:  # `>&-` leaves none
        stream.flush()


def _discard(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

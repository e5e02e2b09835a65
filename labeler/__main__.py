# PYTHON_ARGCOMPLETE_OK
"""`labeler` and `python -m labeler`: the process of a command, and how it ends.

A command is done while threads of Arrow may still hold the last reference to bytes that Python owns. If one of them
lets go while Python (3.11 to 3.13) tears its interpreter down, C++ aborts the process: exit code 134 after all work is
done. So nothing is torn down here: when all that is registered to run at exit has run, the process just ends.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

_OLDEST_PYTHON = (3, 11)  # as pyproject.toml says
_REFUSED = 2  # as `cli.REFUSED`, before another module of labeler is imported


def run(*words: str) -> NoReturn:
    """Run the command of `words` and the process's own arguments, and end the process with its exit code."""
    _require_python()
    ended: list[int] = []
    atexit.register(_leave, ended)  # before all imports: callbacks are called last in, first out
    try:
        from labeler.cli import main

        ended.append(main([*words, *sys.argv[1:]]))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("labeler."):
            ended.append(1)
            raise
        lock = "install the versions of requirements.lock"
        sys.stderr.write(f"labeler: package {error.name} is missing in the Python {sys.executable}; {lock} there\n")
        ended.append(_REFUSED)
    except Exception:
        ended.append(1)  # as Python ends after a traceback
        raise
    sys.exit(ended[0])


def _require_python() -> None:
    """End with one line if this Python is too old for labeler's syntax: on a cluster the user did not choose it."""
    if sys.version_info < _OLDEST_PYTHON:
        needed, here = (".".join(map(str, version[:2])) for version in (_OLDEST_PYTHON, sys.version_info))
        sys.stderr.write(f"labeler: labeler needs Python {needed} or newer, {sys.executable} is Python {here}\n")
        sys.exit(_REFUSED)


def _leave(ended: list[int]) -> None:
    """End the process at once, if its command came to an end; threads were joined, and other callbacks ran."""
    if not ended:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:  # nobody takes the output: Python reports that at its end, with its own exit code
        return
    os._exit(ended[0])


if __name__ == "__main__":
    run()

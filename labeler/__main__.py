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


def run(*words: str) -> NoReturn:
    """Run the command of `words` and the process's own arguments, and end the process with its exit code."""
    ended: list[int] = []
    atexit.register(_leave, ended)  # before all imports: callbacks are called last in, first out
    from labeler.cli import main

    try:
        ended.append(main([*words, *sys.argv[1:]]))
    except Exception:
        ended.append(1)  # as Python ends after a traceback
        raise
    sys.exit(ended[0])


def _leave(ended: list[int]) -> None:
    """End the process at once, if its command came to an end; threads were joined, and other callbacks ran."""
    if not ended:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:  # nobody takes the output: Python's own end says so, with its own exit code
        return
    os._exit(ended[0])


if __name__ == "__main__":
    run()

"""The one root exception and its few children; each message says what, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LabelerError(Exception):
    """Anything labeler says to its user in a line. `exit_code` is what the command line ends with."""

    exit_code = 1


class Refused(LabelerError):
    """The run is not started: bad config, vocabulary, checkpoint, input or output. Exit code 2, nothing written.

    Args:
        message: one line: what is wrong, where, what to do.
        problems: further lines, one for each single problem, when all of them are reported at once.

    Attributes:
        warnings: of a vocabulary; what would be said if there were no problem.
    """

    exit_code = 2
    warnings: Sequence[str] = ()

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:  # keep `problems` across Ray's pickling
        return type(self), (str(self), self.problems)


class Incomplete(LabelerError):
    """The run was started and did not finish; running the same command again continues. Exit code 1."""


class StorageError(LabelerError):
    """Storage refused or failed for good (after retries): missing object, no permission, no space, timeouts."""


class InputChanged(StorageError):
    """An input object is not the one that was planned: its ETag or size changed under the run."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: `; did you mean X?`, or "" if no known word is near.

    Case does not count. Near is also a known word that begins with this one, if that is not very short.
    """
    names = {name.casefold(): name for name in known}
    wanted = word.casefold()
    near = difflib.get_close_matches(wanted, names, n=1)
    near = near or [name for name in names if len(wanted) > 2 and name.startswith(wanted)]
    return f"; did you mean {names[near[0]]}?" if near else ""


def counted(count: int, thing: str) -> str:
    """Return `1 image` or `1,234 images`; the plural of `thing` ends with an s more."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, and how many more there are."""
    return [*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]

"""Find numbers that come more than once among any number of them, in bounded memory."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import IO, Self

import numpy as np
import numpy.typing as npt

_HELD = 1 << 20  # numbers in memory
_FILES = 64  # 80 million numbers are 10 MB in each
Numbers = npt.NDArray[np.int64]


class Repeats:
    """Owns temporary files in TMPDIR (8 bytes per number) once there are more than a million numbers.

    A file takes the numbers with the same lowest bits, so that equal ones meet there.
    """

    def __init__(self) -> None:
        self._held: list[Numbers] = []
        self._count = 0
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, numbers: Numbers) -> None:
        """Take some more."""
        self._held.append(numbers)
        self._count += len(numbers)
        if self._count >= _HELD:
            self._spill()

    def find(self) -> frozenset[int]:
        """Return the numbers that were added twice or more often."""
        if not self._files:
            return _repeated(np.concatenate([np.empty(0, np.int64), *self._held]))
        self._spill()
        found: frozenset[int] = frozenset()
        for file in self._files:
            file.seek(0)
            found |= _repeated(np.frombuffer(file.read(), np.int64).copy())
        return found

    def _spill(self) -> None:
        if not self._files:
            self._files = [self._open.enter_context(tempfile.TemporaryFile()) for _ in range(_FILES)]  # noqa: SIM115 - the stack is one
        numbers = np.concatenate([np.empty(0, np.int64), *self._held])
        places = numbers & (_FILES - 1)
        ordered = numbers[np.argsort(places, kind="stable")]
        ends = np.cumsum(np.bincount(places, minlength=_FILES))
        for file, some in zip(self._files, np.split(ordered, ends[:-1]), strict=True):
            file.write(some.tobytes())
        self._held, self._count = [], 0


def _repeated(numbers: Numbers) -> frozenset[int]:
    numbers.sort()
    return frozenset(numbers[1:][numbers[1:] == numbers[:-1]].tolist())

"""The rows of a measurement: appended one by one, each with the device, versions and commit it is about."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"
PASSED, FAILED, MEASURED, SKIPPED, ENDED = "passed", "failed", "measured", "skipped", "ended"
PART = "part"  # what the row is about that says how a part ended
_REASON = 600  # characters


class Journal:
    """Where one part's process writes its rows.

    Attributes:
        failures: rows so far with the outcome `failed`.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], part: str, kind: str, limit_s: float) -> None:
        """
        Args:
            out: folder of results.jsonl.
            about: device, versions and commit, repeated in every row.
            limit_s: of the part, from now on; no step begins that has no time left.
        """
        self.failures = 0
        self._file, self._about, self._part, self._kind = out / RESULTS, about, part, kind
        self._began, self._limit_s = time.perf_counter(), limit_s

    def left(self) -> float:
        """Seconds until the part's limit."""
        return self._limit_s - (time.perf_counter() - self._began)

    def row(self, what: str, outcome: str = MEASURED, **values: Any) -> None:
        """Append a row, and print it."""
        self.failures += outcome == FAILED
        at_s = round(time.perf_counter() - self._began, 1)
        found = {"part": self._part, "kind": self._kind, "what": what, "outcome": outcome, "at_s": at_s, **values}
        append(self._file, {**found, **self._about})
        print(json.dumps(found, default=str), flush=True)

    def check(self, what: str, passed: bool, **values: Any) -> None:
        """Append whether something is as it has to be."""
        self.row(what, PASSED if passed else FAILED, **values)

    def step(self, what: str, call: Callable[[], object], needs_s: float = 5.0) -> None:
        """Run one step. If it raises, that is a row, and the next step runs all the same.

        Args:
            needs_s: with less time left the step is skipped.
        """
        if self.left() < needs_s:
            self.row(what, SKIPPED, reason=f"{max(0, self.left()):.0f} s left of {self._limit_s:.0f}")
            return
        try:
            call()
        except Exception as error:
            traceback.print_exc()
            self.row(what, FAILED, reason=in_a_line(error))


def append(file: Path, row: Mapping[str, Any]) -> None:
    """One line, in one write."""
    with file.open("a", encoding="utf-8") as target:
        target.write(json.dumps(row, default=str) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file without a truncated last line of a killed process; none if the file is missing."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def in_a_line(error: BaseException) -> str:
    """The error's type and first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:_REASON]

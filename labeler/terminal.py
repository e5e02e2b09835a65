"""What reaches a terminal: without secrets, and with control characters escaped, whoever wrote the text."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast

from rich.console import Console

from labeler.storage import printable, redact


def safe(text: str) -> str:
    """Return text of several lines as a terminal may show it: names in it can neither steer it nor hold a password."""
    return "\n".join("\t".join(map(printable, redact(line).split("\t"))) for line in text.split("\n"))


class SafeConsole(Console):
    """A rich console for messages, which come as plain text. Rich's own styles and cursor movements stay."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(safe(each) if isinstance(each, str) else each for each in objects), **options)


def message_console() -> Console:
    """The console for progress and messages: standard error."""
    return SafeConsole(stderr=True, highlight=False)


@contextmanager
def safe_output() -> Iterator[None]:
    """Make all that is printed or logged safe, while the block runs."""
    last = logging.lastResort
    formatter = last.formatter if last else None
    if last:
        last.setFormatter(_SafeFormatter())
    try:
        with redirect_stdout(cast("TextIO", _SafeStream())):
            yield
    finally:
        if last:
            last.setFormatter(formatter)


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


class _SafeStream:
    """Standard output, as it is when the block begins."""

    def __init__(self) -> None:
        self._stream = sys.stdout

    def write(self, text: str) -> int:
        return self._stream.write(safe(text)) if self._stream else len(text)  # `>&-` leaves none

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""What Ray pushes to the driver about failed tasks: tracebacks of many lines, of which a log needs the reason, once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from labeler import storage
from labeler.terminal import tell

_FROM_RAY = "raylet"  # what Ray itself says; lines of workers have a number
_MOST = 10  # different reasons
_MAX_REASON = 300  # characters
_VARYING = re.compile(r"\b[0-9a-f]{16,}\b|0x[0-9a-f]+|\b\d+\b")


def reason_of(text: str) -> str:
    """The line of a message that says why: a worker's exit, the end of a traceback, or its first line."""
    exit_detail = re.search(r"Worker exit detail: (.+?)(?:\. There are|\n|$)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if exit_detail:
        reason = exit_detail[1]
    elif "Traceback (most recent call last)" in text:
        reason = lines[-1]
    else:
        reason = lines[0] if lines else ""
    return storage.redact(reason)[:_MAX_REASON]


class RayNews:
    """Prints each reason once, whatever numbers and addresses are in it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: set[str] = set()

    def receive(self, text: str) -> None:
        """Take one message of Ray's."""
        reason = reason_of(text)
        key = _VARYING.sub("#", reason)
        if reason and key not in self._seen and len(self._seen) < _MOST:
            self._seen.add(key)
            tell(self._console, f"Ray repeats what failed: {reason}", level="warning")


@contextmanager
def only_reasons(console: Console) -> Iterator[None]:
    """While inside, Ray's own messages to this driver come out as reasons on the console, not as they are on stdout."""
    from ray._private import worker

    before, news = worker.print_to_stdstream, RayNews(console)

    def print_reasons(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if data.get("pid") != _FROM_RAY:
            before(data, *arguments, **options)
            return
        for text in data.get("lines", ()):
            news.receive(text)

    worker.print_to_stdstream = print_reasons
    try:
        yield
    finally:
        worker.print_to_stdstream = before

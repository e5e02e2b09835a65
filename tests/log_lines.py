"""What a part of labeler logs, for tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logged(name: str) -> Iterator[list[str]]:
    """The messages of one logger while the context lasts."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def without_steps(said: str) -> list[str]:
    """The lines of a command's messages but for what it says of its start while that takes time."""
    return [line for line in said.splitlines() if not line.endswith((" ...", " so far"))]

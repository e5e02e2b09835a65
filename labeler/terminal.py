"""What reaches a terminal or a job's log: without secrets, control characters escaped, as text or as lines of JSON."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from rich.console import Console

from labeler.storage import printable, redact


def safe(text: str) -> str:
    """Return text of several lines as a terminal may show it: names in it cannot steer it or show a password."""
    return "\n".join("\t".join(map(printable, redact(line).split("\t"))) for line in text.split("\n"))


class SafeConsole(Console):
    """A rich console for messages, which come as plain text. Rich's own styles and cursor movements stay."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(safe(each) if isinstance(each, str) else each for each in objects), **options)


class LogConsole(SafeConsole):
    """A console for programs that call labeler: messages go to Python's logger `labeler`; nothing is printed."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), force_terminal=False)

    def print(self, *objects: Any, **options: Any) -> None:
        text = safe(" ".join(map(str, objects)))
        level = logging.WARNING if text.startswith("warning: ") else logging.INFO
        logging.getLogger("labeler").log(level, "%s", text.removeprefix("warning: "))


class JsonConsole(SafeConsole):
    """A console that writes one JSON object per message: `time`, `level`, `message`, and what is known beside.

    Attributes:
        context: fields of every message from now on, e.g. `run`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.context: dict[str, Any] = {}

    @property
    def is_terminal(self) -> bool:
        """Nothing moves in a log."""
        return False

    def print(self, *objects: Any, **options: Any) -> None:
        self.tell(" ".join(map(str, objects)))

    def tell(self, message: str, *, level: str | None = None, **fields: Any) -> None:
        """Write one message; the level is that of its first word unless it is given."""
        for prefix, found in (("warning: ", "warning"), ("labeler: ", "error")):
            if message.startswith(prefix):
                message, level = message.removeprefix(prefix), level or found
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"time": moment, "level": level or "info", "message": redact(message)}
        known = {name: value for name, value in {**self.context, **fields}.items() if value is not None}
        self.file.write(json.dumps(head | known, ensure_ascii=False) + "\n")
        self.file.flush()


_json_console: JsonConsole | None = None  # of this process, while its log is JSON


def message_console() -> Console:
    """Return the console for progress and messages: standard error."""
    return _json_console or SafeConsole(stderr=True, highlight=False)


def tell(console: Console, message: str, **fields: Any) -> None:
    """Print a message as a line of its own; where the log is JSON, with these fields."""
    if isinstance(console, JsonConsole):
        console.tell(message, **fields)
    else:
        console.print(message, markup=False, soft_wrap=True)


def add_context(console: Console, **fields: Any) -> None:
    """Have every message from now on carry these fields, where the log is JSON."""
    if isinstance(console, JsonConsole):
        console.context.update(fields)


@contextmanager
def json_log() -> Iterator[JsonConsole]:
    """While inside, messages of this process are lines of JSON."""
    global _json_console
    before, _json_console = _json_console, JsonConsole(stderr=True, highlight=False)
    try:
        yield _json_console
    finally:
        _json_console = before


@contextmanager
def safe_output() -> Iterator[None]:
    """Make all that is printed or logged safe, while the block runs."""
    last = logging.lastResort
    formatter = last.formatter if last else None
    logger = logging.getLogger("labeler")
    silent = [handler for handler in logger.handlers if isinstance(handler, logging.NullHandler)]  # of the Python API
    for handler in silent:
        logger.removeHandler(handler)
    if last:
        last.setFormatter(_SafeFormatter() if _json_console is None else _JsonFormatter())
    try:
        with redirect_stdout(cast("TextIO", _SafeStream())) if sys.stdout else nullcontext():
            yield
    finally:
        if last:
            last.setFormatter(formatter)
        for handler in silent:
            logger.addHandler(handler)


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


class _JsonFormatter(logging.Formatter):
    """Lines of Python's own logging as those of the console."""

    def format(self, record: logging.LogRecord) -> str:
        out = io.StringIO()
        console = JsonConsole(file=out)
        console.context = dict(_json_console.context) if _json_console else {}
        console.tell(record.getMessage(), level=record.levelname.lower(), logger=record.name)
        return out.getvalue().rstrip("\n")


class _SafeStream:
    """Standard output, as it is when the block begins."""

    def __init__(self) -> None:
        self._stream = sys.stdout

    def write(self, text: str) -> int:
        return self._stream.write(safe(text)) if self._stream else len(text)  # `>&-` leaves none

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

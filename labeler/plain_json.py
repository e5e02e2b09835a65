"""JSON from files: bounded in size and depth, every failure of one kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_BYTES = 64 << 20
MAX_DEPTH = 64  # of containers in containers


class NotPlainJson(ValueError):
    """`problem` is one line; `line` counts from 1, None where it is not known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


def parse(
    data: bytes | str,
    *,
    max_bytes: int | None = MAX_BYTES,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the document.

    Args:
        max_bytes: None for documents that are large by nature.
        object_pairs_hook: as of `json.loads`; may raise ValueError.

    Raises:
        NotPlainJson: if it is not JSON, too large, or nested more than MAX_DEPTH levels deep.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise NotPlainJson(f"more than {max_bytes >> 20} MiB")
    try:
        value = json.loads(data, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise NotPlainJson(error.msg, error.lineno) from None
    except RecursionError:
        raise too_deep() from None
    except ValueError as error:  # not UTF-8, a number of thousands of digits, what the hook does not like
        raise NotPlainJson((str(error).splitlines() or ["?"])[0]) from None
    require_depth(value)
    return value


def require_depth(value: Any) -> None:
    """Reject a parsed value that is nested more than MAX_DEPTH levels deep: others walk it recursively."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        children = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in children if isinstance(child, dict | list)]
    if level:
        raise too_deep()


def too_deep() -> NotPlainJson:
    return NotPlainJson(f"nested more than {MAX_DEPTH} levels deep")

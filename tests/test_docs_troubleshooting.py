"""docs/guides/troubleshooting.md: every heading is a message that labeler prints, with a cause and a fix below it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text()
ENTRIES = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
HEADINGS = [entry.splitlines()[0].strip("`") for entry in ENTRIES]


@cache
def messages() -> tuple[str, ...]:
    """Every text in the source, with `…` for the parts that are filled in."""
    found = []
    for path in sorted((ROOT / "labeler").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[-\d.]*[sdfg]", "…", node.value))
    return tuple(found)


def is_printed(heading: str) -> bool:
    """Whether one text has all constant parts of the heading, in their order."""
    pattern = ".*?".join(re.escape(part.strip()) for part in heading.split("…") if part.strip())
    return any(re.search(pattern, text, re.DOTALL) for text in messages())


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_a_message_of_labeler(heading: str) -> None:
    assert len(heading.replace("…", "").strip()) > 7, "too short to find a message by"
    assert is_printed(heading)


def test_a_message_that_nobody_prints_is_noticed() -> None:
    assert not is_printed("the moon is … miles away")


def test_there_are_enough_and_each_has_a_cause_and_a_fix() -> None:
    assert 25 <= len(HEADINGS) <= 40
    assert len(set(HEADINGS)) == len(HEADINGS)
    for entry in ENTRIES:
        for part in ("**Cause.** ", "**Fix.** "):
            assert part in entry, entry.splitlines()[0]

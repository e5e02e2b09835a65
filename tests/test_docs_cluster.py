"""docs/guides/cluster.md: its commands parse, its files exist, and it explains the lines that users see."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from labeler.cli import _parse

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "cluster.md").read_text()
SHELL = [
    line for block in re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
INLINE = re.findall(r"`(labeler label [^`]*)`", PAGE)


@cache
def said() -> str:
    """All that the source can print: its texts without what is filled in, as they follow one another."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "labeler").rglob("*.py"))]
    return "\0".join(text for tree in trees for text in _texts(tree))


def _texts(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("…".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def explained() -> list[str]:
    """The pieces of source text in the first column of the last table."""
    table = PAGE.partition("## When it does not run")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [piece.strip() for cell in cells for code in re.findall(r"`([^`]+)`", cell) for piece in code.split("…")]


@pytest.mark.parametrize("piece", explained())
def test_an_explained_line_is_one_that_the_source_has(piece: str) -> None:
    assert len(piece) > 7
    assert piece in said()


def test_a_line_that_nobody_prints_is_noticed() -> None:
    assert len(explained()) > 20
    assert "the job server is on holiday" not in said()


@pytest.mark.parametrize("command", [line for line in [*SHELL, *INLINE] if line.startswith("labeler ")])
def test_every_command_is_one_that_exists(command: str) -> None:
    _parse(shlex.split(command)[1:])


def test_every_file_and_heading_that_it_points_to_is_there() -> None:
    headings = {
        re.sub(r"[^a-z ]", "", line[3:].lower()).replace(" ", "-") for line in PAGE.splitlines() if line[:3] == "## "
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert target[1:] in headings if target.startswith("#") else (ROOT / "docs" / "guides" / target).exists(), (
            target
        )
    for path in re.findall(r"\bdeploy/[\w.-]+\w", " ".join(SHELL)):
        assert (ROOT / path).is_file(), path

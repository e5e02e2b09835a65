"""The public names of `labeler` with signatures and docstrings, read from the source: nothing is imported.

So the page needs no torch and no Ray, and is equal with every version of Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import labeler
from tests.docs_pages.markdown import GENERATED

ROOT = Path(__file__).parents[2]
Definition = ast.ClassDef | ast.FunctionDef
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
_INTRODUCTION = """# Python API

Only the names below are public. `import labeler` has them, and does not load Ray or torch. Every error is a
`LabelerError`. [Use labeler from Python](../guides/python.md) has examples.
"""
_GROUPS = (
    ("Label", ("label", "preview", "as_config", "Config")),
    ("Use a run", ("open_run", "LabeledRun", "export", "evaluate", "calibrate")),
    ("Detect without a run", ("Detector", "Detections", "Vocabulary", "decode", "GroundingDino")),
    ("Errors", ("LabelerError", "Refused", "Incomplete", "StorageError", "InputChanged")),
)


def page() -> str:
    parts = [GENERATED, _INTRODUCTION]
    for title, names in _GROUPS:
        parts.append(f"## {title}\n")
        for name in names:
            parts += _entry(name, find(labeler._HOMES[name], name), "labeler.")
    return "\n".join(parts)


def shown() -> set[str]:
    """The names that the page has."""
    return {name for _, names in _GROUPS for name in names}


def find(module: str, name: str) -> Definition:
    """The definition of a name, through the imports of packages that only pass it on."""
    base = ROOT / Path(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return find(node.module, name)
    raise LookupError(f"{module} has no {name}")


def _entry(name: str, node: Definition, prefix: str) -> Iterator[str]:
    level = "###" if prefix == "labeler." else "####"
    kind = "class " if isinstance(node, ast.ClassDef) else ""
    yield f"{level} {kind}{prefix}{name}\n"
    signature = _signature(node, prefix + name)
    if signature:
        yield f"```python\n{signature}\n```\n"
    yield _text(ast.get_docstring(node, clean=False) or "")
    if isinstance(node, ast.ClassDef):
        for method in _methods(node):
            yield from _entry(method.name, method, f"{name}.")


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [
        each
        for each in node.body
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and ast.get_docstring(each)
    ]


def _signature(node: Definition, name: str) -> str:
    """`name(arguments) -> result`, an argument per line if that is long; "" for classes that others make."""
    if isinstance(node, ast.ClassDef):
        return ""
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    if marks & {"property", "cached_property"}:
        return f"{name}: {ast.unparse(node.returns)}" if node.returns else name
    arguments = ast.parse(ast.unparse(node)).body[0].args  # type: ignore[attr-defined]
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({ast.unparse(arguments)}){returns}"
    return line if len(line) <= 100 else f"{name}(\n{_one_per_line(arguments)}){returns}"


def _one_per_line(arguments: ast.arguments) -> str:
    return "".join(f"    {each},\n" for each in _split(ast.unparse(arguments)))


def _split(text: str) -> Iterator[str]:
    """The parts of a list of arguments, at the commas outside of brackets and quotes."""
    depth, start, quote = 0, 0, ""
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and not depth:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def _text(docstring: str) -> str:
    """A docstring as Markdown: `Args:` and the like as lists."""
    lines = cleandoc(docstring).splitlines()
    out: list[str] = []
    section = ""
    for line in lines:
        found = _SECTION.match(line)
        if found:
            section = found[1]
            out += [f"**{section}**", ""]
        elif section and line and not line.startswith(" "):
            section = ""
            out.append(line)
        elif section:
            out.append(_item(line, section))
        else:
            out.append(line)
    return "\n".join(out).rstrip() + "\n"


def _item(line: str, section: str) -> str:
    """A line of a section: an entry of a list, or the rest of one."""
    text = line.removeprefix("    ")
    if not text.strip() or section in ("Returns", "Yields"):
        return text
    name, colon, rest = text.partition(": ")
    if text.startswith(" ") or not colon:
        return f"  {text.strip()}"
    return f"- {', '.join(f'`{each}`' for each in name.split(', '))}: {rest}"

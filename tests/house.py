"""The house in numbers, by syntax tree: `python -m tests.house [FOLDER]` prints them for FOLDER/labeler."""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SMALL_FILE = 45  # lines
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def statements(tree: ast.Module) -> int:
    """Statements but docstrings: how much there is to understand, however it is laid out."""
    return sum(isinstance(node, ast.stmt) and not _is_docstring(node) for node in ast.walk(tree))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _public(trees: dict[Path, ast.Module]) -> Iterator[Function | ast.ClassDef]:
    for tree in trees.values():
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield node


def numbers(package: Path) -> dict[str, str]:
    """What is counted of all modules below `package`, as text by name."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in trees}
    lengths = sorted(node.end_lineno - node.lineno + 1 for tree in trees.values() for node in functions(tree))  # type: ignore[operator]
    modules = [path for path in trees if path.name != "__init__.py"]
    stems = Counter(path.stem for path in modules)
    classes = Counter(n.name for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
    public = list(_public(trees))
    documented = sum(ast.get_docstring(node) is not None for node in public)
    twice = {name: count for name, count in sorted(stems.items()) if count > 1}
    named_twice = {name: count for name, count in sorted(classes.items()) if count > 1}
    return {
        "modules": f"{len(modules)} and {len(trees) - len(modules)} packages, {sum(lines.values())} lines",
        "statements": str(sum(map(statements, trees.values()))),
        "functions": f"{len(lengths)}; median {statistics.median(lengths):g}, longest {lengths[-1]} lines",
        "docstrings": f"{documented} of {len(public)} public names ({documented / len(public):.1%})",
        f"files under {SMALL_FILE} lines": str(sum(lines[path] < SMALL_FILE for path in modules)),
        "stems that stand twice": f"{len(twice)}: {' '.join(twice)}",
        "class names that stand twice": f"{len(named_twice)}: {' '.join(named_twice)}",
    }


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    for name, text in numbers(root / "labeler").items():
        print(f"{name}: {text}")


if __name__ == "__main__":
    main()

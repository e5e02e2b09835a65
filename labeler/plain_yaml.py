"""YAML as plain data: no tags, no aliases, no key twice, bounded in depth and number, every failure of one kind."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

MAX_CHARACTERS = 4 * 2**20
MAX_DEPTH = 100
MAX_NODES = 250_000  # about 1 KB of memory each; 80 thousand categories with id, name and phrases
_MAX_INT = 2**63


class NotPlainYaml(ValueError):
    """`problem` is one line; `line` counts from 1, None where it is not known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


def parse(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the document, and its node (with the places of everything in it); (None, None) when there is none.

    Raises:
        NotPlainYaml: not YAML, or more than plain data.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotPlainYaml(f"more than {MAX_CHARACTERS} characters")
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise NotPlainYaml(_one_line(error.problem or error), line) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise NotPlainYaml(_one_line(error)) from None


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader still follows aliases (a few hundred bytes grow to gigabytes), and lets bad dates, numbers
    and depths out as whatever exception they end in."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # missing in the stubs
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not allowed; write it out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refusal("tags (!name) are not allowed; put text in quotes", event.start_mark)
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES} values", event.start_mark)
        if self._depth > MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:  # 2024-13-45, 0b_, ...
            raise _refusal(f"not a usable value ({_one_line(error)}); put text in quotes", node.start_mark) from None
        if isinstance(value, int) and abs(value) >= _MAX_INT:
            raise _refusal("a number of more than 64 bits; put text in quotes", node.start_mark)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise _refusal("half of a surrogate pair, which is not a text", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                shown = key.value if key.value.isprintable() else ascii(key.value)
                raise _refusal(f'key "{shown[:80]}" is given twice', key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

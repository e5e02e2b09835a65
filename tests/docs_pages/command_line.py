"""Every command with its arguments, options and examples, from the parser.

The tables are made of the parser's actions, because the text of `format_help` differs between versions of Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from labeler.cli import _parser
from labeler.commands import help as texts
from tests.docs_pages.markdown import GENERATED, cell, table

_INTRODUCTION = """# Command line

`labeler COMMAND --help` prints the same. Options and `key=value` overrides may have any order. `RUN` is the output
folder of `labeler label`.

| exit code | meaning |
| --- | --- |
| 0 | success |
| 1 | incomplete: run the same command again to resume |
| 2 | rejected: nothing was started; the message says what to change |
"""


def page() -> str:
    choices = _parser()[1].choices
    parts = [GENERATED, _INTRODUCTION]
    for group in texts.GROUPS:
        named = [name for name, about in texts.COMMANDS.items() if about.group == group]
        rows = [(f"[`{name}`](#labeler-{name})", cell(texts.COMMANDS[name].line)) for name in named]
        parts.append(table((group.lower(), "what it does"), rows))
    parts += [text for name in texts.COMMANDS for text in _command(name, choices[name])]
    return "\n".join(parts)


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    about = texts.COMMANDS[name]
    examples = "\n".join(about.examples)
    yield f"## labeler {name}\n\n{about.text}\n\n```\n{examples}\n```\n"
    yield from _tables(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {each.dest: each.help for each in action._choices_actions}
            for inner, inner_parser in action.choices.items():
                yield f"### labeler {name} {inner}\n\n{_sentence(lines.get(inner) or '')}\n"
                yield from _tables(inner_parser)


def _tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    for group in parser._action_groups:
        rows = [_row(action, parser) for action in group._group_actions if _is_shown(action)]
        if rows:
            yield table((_title(group.title or ""), "description"), rows)


def _title(title: str) -> str:
    return {"positional arguments": "argument", "options": "option"}.get(title, f"option: {title}")


def _is_shown(action: argparse.Action) -> bool:
    return action.help is not argparse.SUPPRESS and not isinstance(
        action, argparse._HelpAction | argparse._SubParsersAction
    )


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[str, str]:
    return cell(_name(action)), cell(_help(action, parser) + _choices(action) + _default(action))


def _name(action: argparse.Action) -> str:
    value = action.metavar or ("VALUE" if action.choices else action.dest.upper())
    shown = " ".join(value) if isinstance(value, tuple) else value
    many = " ..." if action.nargs in ("*", "+") else ""
    if not action.option_strings:
        return f"`{shown}{many}`"
    takes = "" if action.nargs == 0 else f" {shown}{many}"
    return ", ".join(f"`{option}{takes}`" for option in action.option_strings)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    values: dict[str, Any] = {**vars(action), "prog": parser.prog}
    return (action.help or "") % values


def _choices(action: argparse.Action) -> str:
    return "" if action.choices is None else f" ({', '.join(f'`{each}`' for each in action.choices)})"


def _default(action: argparse.Action) -> str:
    told = action.default in (None, False, "", argparse.SUPPRESS) or not action.option_strings or action.default == []
    return "" if told or "default" in (action.help or "") else f" (default: {action.default})"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""

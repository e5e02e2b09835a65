"""The command line's parser: mistakes in one line with the nearest word, help with a sentence and an example."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from labeler.commands import help as texts
from labeler.errors import Refused, did_you_mean

_NOT_A_CHOICE = re.compile(
    r"argument (?P<of>\S+): invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)", re.DOTALL
)
_OF_WORDS = {"COMMAND": "command", "ACTION": "action"}  # metavar -> what its words are
_OVERRIDES = ", key=value"  # which argparse counts among what is required
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=.*", re.DOTALL)
_PLAIN_KEYS = ("input", "output", "vocabulary")  # keys of a config that are not section


class UsageError(Refused):
    """The words of a command line make no command."""


class Parser(argparse.ArgumentParser):
    """argparse's, but for what it says of mistakes: `error` raises UsageError with one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {suggest(message).removesuffix(_OVERRIDES)}; see `{self.prog} --help`")


class TopParser(Parser):
    """The parser of `labeler` itself, whose help lists the commands in groups."""

    def format_help(self) -> str:
        return texts.overview(self.format_usage())


def suggest(message: str) -> str:
    """Return what argparse says, with the nearest choice if it is about a word that is none of its choices."""
    found = _NOT_A_CHOICE.search(message)
    if found is None:
        return message
    known = re.findall(r"[^\s,']+", found["known"])
    kind = _OF_WORDS.get(found["of"])
    shown = (
        f"unknown {kind} {found['word']!r}" if kind else f"argument {found['of']}: invalid choice: {found['word']!r}"
    )
    near = did_you_mean(found["word"], known)
    return f"{shown}{near}" if near and kind else f"{shown}{near} (choose from {', '.join(known)})"


def is_override(word: str) -> bool:
    """Return whether a word reads as `section.key=value`."""
    return _OVERRIDE.fullmatch(word) is not None


def sort_overrides(arguments: argparse.Namespace, left: list[str], command: argparse.ArgumentParser) -> None:
    """Put `key=value` words where they belong, in place: argparse loses those that stand after options.

    The first one is not taken for the command's first argument, e.g. CONFIG, if another word can be that.

    Args:
        left: words that argparse did not take.

    Raises:
        UsageError: if one of them is not an override.
    """
    rest = [word for word in left if word != "--"]
    dashed = next((number for number, word in enumerate(rest) if word.startswith("-")), None)
    if dashed is not None or (rest and not hasattr(arguments, "overrides")):
        command.error(unrecognized(rest[dashed or 0 :], command))
    if not hasattr(arguments, "overrides"):
        return
    arguments.overrides = [*arguments.overrides, *rest]
    _swap_first(arguments, command)
    if strange := [word for word in rest if "=" not in word and word in arguments.overrides]:
        command.error(unrecognized(strange, command))


def _swap_first(arguments: argparse.Namespace, command: argparse.ArgumentParser) -> None:
    """An override that stands before CONFIG, or RUN, changes places with it."""
    first = next(action for action in command._actions if not action.option_strings and action.nargs is None)
    word = getattr(arguments, first.dest)
    if not is_override(word) or os.path.exists(word):
        return
    other = next((each for each in arguments.overrides if not is_override(each)), None)
    if other is None:
        if first.metavar == "CONFIG":
            command.error(f"CONFIG is missing: {word!r} is an override of one")
        return
    arguments.overrides = [word, *(each for each in arguments.overrides if each != other)]
    setattr(arguments, first.dest, other)


def unrecognized(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return the message about words that a command does not take, with the nearest option or override."""
    first, equals, value = words[0].partition("=")
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    near = did_you_mean(first, options) if first.startswith("--") else ""
    key = first.removeprefix("--").replace("-", "_")
    takes_overrides = any(action.dest == "overrides" for action in parser._actions)
    if takes_overrides and first.startswith("--") and ("." in key or (key in _PLAIN_KEYS and not near)):
        value = value if equals else "".join(words[1:2]) or "VALUE"
        near = f"; did you mean {key}={value}? (keys of the configuration have no dashes)"
    elif takes_overrides and not first.startswith("-"):
        near = "; an override looks like section.key=value"
    return f"unrecognized arguments: {' '.join(words)}{near}"


def add_commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Return where the commands are added, each with a `Parser`."""
    found: Any = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=Parser)
    verbs: argparse._SubParsersAction[argparse.ArgumentParser] = found
    return verbs


def describe(verbs: Any) -> None:
    """Give each command and action its sentence and its examples.

    Args:
        commands: what `add_subparsers` returned.
    """
    for name, parser in commands_of(verbs).items():
        about = (texts.COMMANDS | texts.ACTIONS)[name]
        parser.description, parser.epilog = about.text, texts.examples_of(name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter


def commands_of(verbs: Any, above: str = "") -> dict[str, argparse.ArgumentParser]:
    """Each command and each action of one by its words, e.g. "vocabulary check"."""
    found: dict[str, argparse.ArgumentParser] = {}
    for name, parser in verbs.choices.items():
        found[f"{above}{name}"] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= commands_of(action, f"{above}{name} ")
    return found


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell's question for words that may follow, and end the process; without argcomplete do nothing.

    `eval "$(register-python-argcomplete labeler)"` makes a shell ask.
    """
    try:
        import argcomplete
    except ModuleNotFoundError:  # the extra `completion`
        return
    argcomplete.autocomplete(parser)

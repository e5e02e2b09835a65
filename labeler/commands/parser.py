"""The command line's parser: mistakes in one line with the nearest word, help with a sentence and an example."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from labeler.commands import help as texts
from labeler.errors import Refused, did_you_mean
from labeler.output import complain

_NOT_A_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)", re.DOTALL)
_OVERRIDES = ", key=value"  # which argparse counts among what is required


class Parser(argparse.ArgumentParser):
    """argparse's, but for what it says of mistakes. Ends the process with exit code 2 after one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: {suggest(message).removesuffix(_OVERRIDES)}; see `{self.prog} --help`")
        raise SystemExit(Refused.exit_code)


class TopParser(Parser):
    """That of `labeler` itself, whose help lists the commands in groups."""

    def format_help(self) -> str:
        return texts.overview(self.format_usage())


def suggest(message: str) -> str:
    """Return what argparse says, and the nearest choice if it is about a word that is none of its choices."""
    found = _NOT_A_CHOICE.search(message)
    if found is None:
        return message
    known = re.findall(r"[^\s,']+", found["known"])
    return f"{message[: found.start()]}invalid choice: {found['word']!r}{did_you_mean(found['word'], known)} " + (
        f"(choose from {', '.join(known)})"
    )


def unrecognized(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return the message about words that a command does not take, with the nearest option."""
    first = words[0].partition("=")[0]
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    near = did_you_mean(first, options) if first.startswith("--") else ""
    return f"unrecognized arguments: {' '.join(words)}{near}"


def add_commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Where the commands are added, each with a `Parser`."""
    found: Any = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=Parser)
    verbs: argparse._SubParsersAction[argparse.ArgumentParser] = found
    return verbs


def describe(verbs: Any) -> None:
    """Give each command its sentence and its examples.

    Args:
        verbs: what `add_subparsers` returned.
    """
    for name, parser in verbs.choices.items():
        about = texts.COMMANDS[name]
        parser.description, parser.epilog = about.text, texts.examples_of(name)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter

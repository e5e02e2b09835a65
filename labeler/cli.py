"""The command line: one module per command; exit codes 0 complete, 1 incomplete, 2 refused."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

from labeler import __version__
from labeler.commands import (
    calibrate,
    compare,
    correct,
    estimate,
    evaluate,
    export,
    forget,
    fuse,
    import_labels,
    label,
    mask,
    models,
    preview,
    report,
    reproduce,
    rescore,
    retry,
    revise,
    sample,
    status,
    submit,
    train,
    vocabulary,
)
from labeler.commands.arguments import Verbs
from labeler.commands.parser import TopParser, UsageError, add_commands, complete, describe, sort_overrides
from labeler.errors import LabelerError, StorageError
from labeler.output import after_output, complain, is_of_output
from labeler.storage import printable, redact

if TYPE_CHECKING:
    from labeler.terminal import JsonConsole

_ROWS = (label, submit, estimate, preview, status, retry, revise, correct, mask, rescore, fuse, import_labels)
_OF_RUNS = (report, compare, export, sample, evaluate, calibrate, forget)
VERBS = (*_ROWS, *_OF_RUNS, train, vocabulary, models, reproduce)
REFUSED = 2
_COMPLETING = "_ARGCOMPLETE"  # set by the shell function of argcomplete when Tab is pressed
_JSON = re.compile(r"--log-format[ =]json\b")
_STARTING = (
    "label",
    "submit",
    "mask",
    "rescore",
    "retry",
    "revise",
    "correct",
    "fuse",
    "import",
    "train",
    "reproduce",
)  # commands that leave something behind to continue with


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Errors meant for the user are printed, one line each."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return after_output(_run(_parse(words)))
    except UsageError as error:
        _complain_of_usage(str(error), words)
        raise SystemExit(after_output(error.exit_code)) from None
    except SystemExit as stop:  # from argparse, after --help
        raise SystemExit(after_output(stop.code if isinstance(stop.code, int) else 0)) from None
    except OSError as error:
        if not is_of_output(error):
            raise
        return after_output(0, error)


def _complain_of_usage(message: str, words: Sequence[str]) -> None:
    """As the words ask for it, which were not parsed."""
    message = printable(redact(message))
    if not _JSON.search(" ".join(words)):
        complain(message)
        return
    from labeler.terminal import json_log

    with json_log() as console:
        _complain_in_json(console, message)


def _run(arguments: argparse.Namespace) -> int:
    from labeler.terminal import json_log, safe_output

    with json_log() if getattr(arguments, "log_format", "text") == "json" else nullcontext() as console:
        say = complain if console is None else partial(_complain_in_json, console)
        try:
            with safe_output():
                code: int = arguments.run(arguments)
        except LabelerError as error:
            say(f"labeler: {_shown(str(error))}", *(f"  {_shown(p)}" for p in getattr(error, "problems", ())))
            return _exit_code(error, arguments.verb)
        except KeyboardInterrupt:
            say("labeler: stopped by Ctrl-C")
            return LabelerError.exit_code
        return code


def _complain_in_json(console: JsonConsole, *lines: str) -> None:
    with suppress(OSError):
        for line in lines:
            console.tell(line.strip(), level="error")


def _shown(message: str) -> str:
    """A message as one line of a terminal."""
    from labeler.terminal import safe

    return safe(message.replace("\n", "\\n").replace("\t", "\\t"))


def _exit_code(error: LabelerError, verb: str) -> int:
    """Storage errors of the reading commands are refusals: they started nothing that could be incomplete."""
    return REFUSED if isinstance(error, StorageError) and verb not in _STARTING else error.exit_code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parsed arguments; key=value overrides may stand anywhere. Raises UsageError."""
    parser, verbs = _parser()
    if _COMPLETING in os.environ:
        complete(parser)
    if not words:
        print(parser.format_help(), end="")
        raise SystemExit(REFUSED)
    if words[0] == "help":
        words = [*words[1:], "--help"]
    arguments, left = parser.parse_known_args(words)
    sort_overrides(arguments, left, _command_of(arguments, verbs))
    return arguments


def _command_of(arguments: argparse.Namespace, verbs: Verbs) -> argparse.ArgumentParser:
    """The parser of the command, or of its action."""
    command: argparse.ArgumentParser = verbs.choices[arguments.verb]
    actions = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices[arguments.action] if actions else command


def _parser() -> tuple[TopParser, Verbs]:
    parser = TopParser(prog="labeler")
    parser.add_argument("--version", action="version", version=f"labeler {__version__}")
    verbs = add_commands(parser)
    for verb in VERBS:
        verb.add(verbs)
    describe(verbs)
    return parser, verbs


if __name__ == "__main__":
    from labeler.__main__ import run

    run()

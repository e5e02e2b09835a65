"""What several commands take: a configuration, a run, and a file to write, with what that may replace."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from labeler import signature, storage
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.pipeline.startup import Startup
    from labeler.runs import Run, Snapshot

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_config(parser: argparse.ArgumentParser) -> None:
    """CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file with input, output, vocabulary and model")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of the file, e.g. detect.score_floor=0.1"
    )


def is_config(path: str) -> bool:
    """Return whether it is a YAML file that names a vocabulary instead of having one."""
    from labeler.config_values import read_yaml

    if Path(path).suffix not in (".yaml", ".yml") or not Path(path).is_file():
        return False
    try:
        values = read_yaml(Path(path))
        return "vocabulary" in values or {"input", "output"} <= values.keys()
    except Refused:  # whatever it is: reading it as a vocabulary says what is wrong
        return False


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """--log-format, of the commands that run a job; the command line applies it."""
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="write messages as text, or as one JSON object per line (default: text)",
    )


@contextmanager
def starting() -> Iterator[Startup]:
    """The steps of a job until its first image, printed from the first second on; the first loads packages."""
    from labeler.pipeline.startup import LOADING, Startup
    from labeler.terminal import message_console

    with Startup(message_console()) as startup:
        startup.step(LOADING)
        yield startup


# Steps of a start.
CHECKING_CONFIG, LISTING = "checking the configuration and the model", "listing the input"
CHECKING_RUN = "checking the run and the model"


def print_result(lines: Sequence[str], **fields: Any) -> None:
    """Print what a job came to: on standard output, or as messages where the log is JSON."""
    from labeler.terminal import JsonConsole, message_console

    console = message_console()
    if not isinstance(console, JsonConsole):
        print("\n".join(lines))
        return
    for line in lines:
        console.tell(line, **fields)


def require_run(uri: str) -> Run:
    """The run in a folder; Refused when there is none."""
    from labeler import runs

    return runs.require_run(uri)


def require_snapshot(arguments: argparse.Namespace, verb: str) -> Snapshot:
    """The run in the folder RUN as it is now; Refused when there is none, or an incomplete one without --partial."""
    from labeler.runs import read_snapshot

    snapshot = read_snapshot(require_run(arguments.run_uri))
    if not arguments.partial:
        snapshot.require_complete(f"{verb} what there is with --partial")
    return snapshot


_MAX_BYTES = 256 << 20  # a larger file is none that could be described


def require_replaceable(
    uri: str,
    describe: Callable[[bytes], str | None],
    what: str,
    *,
    force: bool = False,
    or_else: str = "replace it with --force",
    option: str = "--output",
    max_bytes: int = _MAX_BYTES,
) -> str | None:
    """Return what a file written to `uri` would replace; None if nothing is there.

    Args:
        describe: returns what a file is about by its content; None for a file that must not be lost.
        what: the kind of file that may be replaced, for the message.
        force: replace it whatever it is.
        or_else: what else to do than to choose another file, for the message.
        option: the option that chooses it, for the message.
        max_bytes: `describe` gets these first bytes alone.

    Raises:
        Refused: if something else is there.
    """
    found = storage.head(uri)
    if found is None:
        return None
    about = describe(storage.read_bytes(uri, length=min(found.size, max_bytes))) if found.size else None
    if about is None and found.size and not force:
        raise Refused(f"{storage.redact(uri)} is there and is not {what}; choose another {option}, or {or_else}")
    return about or f"{found.size:,} bytes"


def require_replaceable_page(uri: str, *, force: bool) -> str | None:
    """Return what an HTML page written to `uri` would replace. Raises Refused if labeler did not write that."""
    what = "a page by `labeler report` or `labeler compare`"
    return require_replaceable(uri, signature.describe_page, what, force=force, max_bytes=signature.HEAD_BYTES)


def written(uri: str, replaced: str | None) -> str:
    """Return the line that says where a file was written, and what it replaced."""
    return f"written     {storage.redact(uri)}" + (f", replaces {replaced}" if replaced else "")

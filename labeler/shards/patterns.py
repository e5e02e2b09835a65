"""Brace patterns and globs over URIs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from labeler.errors import Refused
from labeler.storage import path_of, redact

MAX_EXPANSIONS = 1_000_000
_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
_MAGIC = re.compile(r"[*?\[]")


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{train,val}/*.tar` as bash would write them out; nested braces too.

    `[{]` and `[}]` are braces of a name, and stay as they are.

    Raises:
        Refused: more than MAX_EXPANSIONS.
    """
    found = []
    path = path_of(pattern)
    for text in _expanded(path):
        found.append(text + pattern[len(path) :])
        if len(found) > MAX_EXPANSIONS:
            raise Refused(f"{redact(pattern)} stands for more than {MAX_EXPANSIONS} objects; use a glob or a folder")
    return found


def _expanded(pattern: str) -> Iterator[str]:
    braces = _first_braces(pattern)
    if braces is None:
        yield pattern
        return
    start, end, choices = braces
    for choice in choices:
        for middle in _expanded(choice):
            for rest in _expanded(pattern[end:]):
                yield pattern[:start] + middle + rest


def _first_braces(pattern: str) -> tuple[int, int, Iterator[str] | list[str]] | None:
    """Return (start, end, choices) of the first braces that hold a list or a range; others are plain text."""
    start = pattern.find("{")
    while start >= 0:
        depth, commas = 0, [start]
        for at in range(start, len(pattern)):
            if pattern[max(0, at - 1) : at + 2] in ("[{]", "[}]"):
                if at == start:
                    break
            elif pattern[at] == "{":
                depth += 1
            elif pattern[at] == "," and depth == 1:
                commas.append(at)
            elif pattern[at] == "}":
                depth -= 1
                if depth == 0:
                    inside = pattern[start + 1 : at]
                    match = _RANGE.fullmatch(inside)
                    if match:
                        return start, at + 1, _numbers(match[1], match[2], int(match[3] or 1))
                    if len(commas) > 1:
                        cuts = [*commas, at]
                        return start, at + 1, [pattern[a + 1 : b] for a, b in pairwise(cuts)]
                    break
        start = pattern.find("{", start + 1)
    return None


def _numbers(first: str, last: str, step: int) -> Iterator[str]:
    is_padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if is_padded else 1
    a, b, step = int(first), int(last), max(1, step)
    for number in range(a, b + 1, step) if a <= b else range(a, b - 1, -step):
        yield f"{number:0{width}d}"


def is_glob(uri: str) -> bool:
    """Return whether a name has wildcards; the query of a web address has none."""
    return _MAGIC.search(path_of(uri)) is not None


def has_braces(uri: str) -> bool:
    """Return whether there are braces in a name behind its bucket or host, where they may be meant as they are."""
    path = path_of(uri)
    bucket = path.partition("://")[2].partition("/")[0]
    return "{" in path and "{" not in bucket


def is_expandable(name: str) -> bool:
    """Return whether there are braces in it that hold a list or a range."""
    return _first_braces(name) is not None


def escape(name: str) -> str:
    """Return a pattern that stands for `name` alone, whatever wildcards are in it; braces are not escaped."""
    return _MAGIC.sub(r"[\g<0>]", name)


def static_folder(glob: str) -> str:
    """Return the folder above the first segment with a wildcard."""
    match = _MAGIC.search(glob)
    head = glob[: match.start()] if match else glob
    folder = head[: head.rfind("/") + 1]
    return folder if folder.endswith("://") or folder == "/" else folder.rstrip("/")


def crosses_folders(glob: str) -> bool:
    """Return whether the listing must be recursive: a wildcard is in a folder's name, or the pattern
    names no folder.
    """
    return is_glob(glob.rpartition("/")[0]) or "**" in glob or "//" in glob.rpartition("://")[2]


def glob_regex(glob: str) -> re.Pattern[str]:
    """`*` and `?` stay within a segment, `**` crosses segments (and `**/` may be nothing), `[...]` is a set."""
    out, at = "", 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            out, at = out + "(?:.*/)?", at + 3
        elif glob.startswith("**", at):
            out, at = out + ".*", at + 2
        elif char == "*":
            out, at = out + "[^/]*", at + 1
        elif char == "?":
            out, at = out + "[^/]", at + 1
        elif char == "[" and (end := glob.find("]", at + 2)) > 0:
            inside = glob[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            inside = "^/" + inside[1:] if inside.startswith("!") else inside
            out, at = f"{out}[{inside}]", end + 1
        else:
            out, at = out + re.escape(char), at + 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise Refused(f"{redact(glob)} is not a valid pattern: {error}") from None

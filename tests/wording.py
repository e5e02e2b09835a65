"""Phrases that do not belong in the project's English, and where they occur.

`python -m tests.wording` prints the hits per phrase in the whole repository. `python -m tests.wording labeler/shards
docs` counts in these folders or files only, and `--list` prints each hit as `file:line: phrase -> replacement: text`.
`tests/test_wording.py` fails on every hit that it does not list.

Checked are comments, docstrings and string literals with a space of Python files, the prose of Markdown files (no code
blocks, no `code`, no link targets), and the comments of YAML, TOML, shell and make files.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ARTICLE = r"(?:a|an|the|this|that|each|every|per|one|its|own|single|another|whole|first|last|next|two|three|of|in)"
OF = "(?:for|of|in|on|with|to|from|by|per|at|between|after|before|and|or|as|than)\\s"
ISE = (
    "anonym|author|categor|character|custom|emphas|equal|final|general|initial|local|maxim|memor|minim|normal|optim"
    "|organ|parallel|parameter|penal|prior|prioriti|priorit|quant|random|real|recogn|sanit|serial|special|standard"
    "|summar|synchron|token|util|vector|visual"
)

# Phrase -> (words of which a text must have one to be searched, regular expression, what to write instead). A space in
# an expression is any white space.
PHRASES = {
    "is no X": (
        "no",
        r"(?<!there\s)\b(?:is|are|was|were) no (?!longer|more|less|fewer|\w+er than|\w+ other)\w+",
        "not a",
    ),
    "nor": ("nor", r"\bnor\b", "a new sentence, or 'and not'"),
    "go on": ("on", r"\b(?:go|goes|going|went) on\b", "continue, resume"),
    "so many": ("so", r"\bso (?:many|much|long|few|often)\b", "that many, N, for that long"),
    "anew": ("anew", r"\banew\b", "again; re-read, rewrite, relabel, refit"),
    "pass over": ("over", r"\bpass(?:es|ed|ing)? over\b", "skip"),
    "for ever": ("for ever", r"\bfor ever\b", "forever, indefinitely"),
    "laid over": ("over", r"\b(?:laid|lays?|lies|lying) over\b", "overlays"),
    "without a word": ("without", r"\bwithout a word\b", "silently"),
    "in turns": ("turns", r"\bin turns\b", "round-robin"),
    "apart": ("apart", r"\bapart\b", "separately, in isolation, except"),
    "says so": ("so said", r"\b(?:sa(?:y|ys|id|ying) so|is said|are said|was said)\b", "prints, logs, reports"),
    "begun": ("begun", r"\bbegun\b", "started"),
    "once more": ("once", r"\bonce more\b", "again"),
    "surely": ("sure", r"\bsurely\b|\bsure by\b", "certainly; with 90% confidence"),
    "taken over": ("over", r"\btak(?:en|es?|ing) over\b", "copied unchanged"),
    "guilty": (
        "guilt kill poison verdict",
        r"\b(?:guilty|killers?|poison(?:s|ed|ous)?|verdicts?)\b(?!:)",
        "crashing image; is blamed; result",
    ),
    "by the clock": ("clock", r"\bby the clock\b", "wall-clock time"),
    "what came of it": ("what", r"\bwhat (?:came|comes|became|becomes) of\b", "result"),
    "whoever": ("whoever", r"\bwhoever\b", "a noun"),
    "just now": ("now", r"\bjust now\b", "leave out"),
    "we, our": ("we our us", r"\b(?:we|our|ours|(?-i:us)(?!-))\b", "labeler, this project, you"),
    "colour": ("colour", r"\b\w*colour\w*", "color"),
    "licence": ("licenc", r"\blicenc\w*", "license"),
    "grey": ("grey", r"\bgrey\w*", "gray"),
    "-ise": ("is", rf"\b\w*(?:{ISE})is(?:e[sdr]?|ing|ation|ers)\b|\banalys(?:e[sd]?|ing)\b", "-ize"),
    "-our, -re": (
        "our centre metre fibre",
        r"\b\w*(?:behaviour|neighbour|favour|honour|labour)\w*|\b(?:centre|metre|fibre)[sd]?\b",
        "-or, -er",
    ),
    "labelled": ("ll", r"\b(?:un|re)?(?:label|model|cancel|travel|signal|marshal)l(?:ed|ing|er)\b", "one l"),
    "British": (
        "artefact judgement whilst catalogue programme defence analogue dialogue",
        r"\b(?:artefact|judgement|whilst|catalogue|programme|defence|analogue|dialogue)s?\b",
        "American form",
    ),
    "roof": ("roof", r"\broofs?\b", "peak"),
    "stands still": ("still", r"\b(?:stand|stands|stood|standing) still\b", "stalls, hangs"),
    "left out": ("out", r"\b(?:left|leaves?|leaving) out\b", "excluded, skipped, ignored"),
    "lies in": ("li ly", r"\b(?:lie|lies|lay|lying) (?:in|under|below|beside)\b", "is in, is stored in"),
    "stands in": ("st", r"\b(?:stand|stands|stood|standing) (?:in|on|at|under|below|beside|there)\b", "is in"),
    "room, door": ("rooms door charter", r"\b(?:rooms|doors?|charters?)\b", "package, entry point, summary"),
    "proof": ("pro", r"\b(?:proofs?|proves?|proved|proven|proving)\b", "check, show; startup parity check"),
    "for eyes": ("eyes", r"\bfor (?:the )?eyes\b", "human-readable"),
    "not finite": ("finite", r"\bnot finite\b", "NaN or infinite"),
    "near copy": ("near", r"\bnear[- ]cop(?:y|ies)\b", "near-duplicate"),
    "verb": ("verb", r"\bverbs?\b", "command"),
    "hub name": ("hub", r"\bhub names?\b", "Hugging Face Hub ID"),
    "asks for its terms": ("asks", r"\basks? for its terms\b", "gated checkpoint"),
    "takes along": ("along", r"\btakes? \w+ (?:machine|node) along\b", "brings down the node"),
    "decides the rows": ("decide", r"\bdecides? (?:the|its) rows\b", "affects results"),
    "a forward": ("forward", rf"\b{ARTICLE} forwards?\b(?! pass)|\bforwards\b", "forward pass"),
    "truth": ("truth", r"(?<!ground\s)(?<!ground-)\btruths?\b(?!:)", "ground truth"),
    "picture": ("picture", r"\bpictures?\b", "image"),
    "drawn": ("drawn", r"\bdrawn (?:scenes?|images?|pictures?|shapes?|data)\b", "synthetic"),
    "kept column": ("kept", r"\bkept columns?\b", "column carried over by input.keep"),
    "a file each": ("each", rf"\ban? \w+(?: (?!{OF})\w+)? each\b", "one file per image"),
    "work a plan": ("plan", r"\bworks? (?:a|the) plan\b", "process a plan"),
    "what of": ("what", r"(?:^|[.:;] )what of\b", "a noun"),
}

COMPILED = {
    name: (tuple(words.split()), re.compile(expression.replace(" ", r"\s+"), re.IGNORECASE))
    for name, (words, expression, _) in PHRASES.items()
}

# (file, a part of the text) -> why it may stay.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("tests/wording.py", ""): "the list itself",
    ("tests/test_wording.py", ""): "examples of what is found",
}

_PYTHON = re.compile(
    r'(?P<comment>\#[^\n]*)|(?P<prefix>\b[rRbBuUfF]{1,2})?(?P<quote>"""|\'\'\'|"|\')'
    r"(?P<body>(?:[^\\\"']+|\\.|(?!(?P=quote)).)*?)(?P=quote)",
    re.DOTALL,
)
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*")
_BRACES = re.compile(r"\{[^{}]*\}")
_CODE = re.compile(r"``[^`\0]+``|`[^`\0]+`|https?://[^\s)>\"]+")
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^ *\2[^\n]*$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:(?: {4}|\t)[^\n]*\n+)+")
_LINK = re.compile(r"\]\([^)\n]*\)|\]\[[^\]\n]*\]|<!--.*?-->|<[a-zA-Z/][^>\n]*>", re.DOTALL)
_LISTED = re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE)
_END = " \0 "  # between two texts, so that no phrase is found across them


class Hit(NamedTuple):
    """One phrase in one place."""

    file: str
    line: int
    phrase: str
    text: str


def _blank(match: re.Match[str]) -> str:
    return " X " + "\n" * match.group().count("\n")


def prose_of_python(source: str) -> str:
    """Return comments and string literals, each on its line. Adjacent ones are one text.

    Literals without a space are not prose.
    """
    texts: list[str] = []
    end = 0
    was_comment = None
    for match in _PYTHON.finditer(source):
        comment = match["comment"] is not None
        gap = source[end : match.start()]
        lines = gap.count("\n")
        if gap.strip() or comment is not was_comment or (comment and lines != 1):
            texts.append(_END)
        texts.append("\n" * lines)
        texts.append(match["comment"].lstrip("#") if comment else _literal(match))
        end, was_comment = match.end(), comment
    return _CODE.sub(_blank, "".join(texts))


def _literal(match: re.Match[str]) -> str:
    prefix, body = (match["prefix"] or "").lower(), match["body"]
    if "b" in prefix or " " not in body.strip():
        return " X " + "\n" * body.count("\n")
    if "f" in prefix:
        body = _BRACES.sub(_blank, _BRACES.sub(_blank, body.replace("{{", "(").replace("}}", ")")))
    return body.replace("\\n", "  ")


def prose_of_markdown(source: str) -> str:
    """Return the text without code blocks, code, comments, tags and link targets, each word on its line."""
    source = _FENCE.sub(lambda match: "\n" * match.group().count("\n"), source)
    source = _INDENTED.sub(_blank_code, source)
    return _CODE.sub(_blank, _LINK.sub(_blank, source))


def _blank_code(match: re.Match[str]) -> str:
    """Return nothing for an indented code block, and the text itself for the next paragraph of a list's item."""
    before = match.string[: match.start()].rstrip().rsplit("\n\n", 1)[-1]
    return match.group() if _LISTED.search(before) else "\n" * match.group().count("\n")


def prose_of_comments(source: str) -> str:
    """Return the comments of a file whose comments start with `#`, each on its line."""
    found = (_COMMENT.search(line) for line in source.split("\n"))
    return _CODE.sub(_blank, "\n".join(match.group().lstrip("#") if match else _END for match in found))


READERS = {".py": prose_of_python, ".md": prose_of_markdown}
WITH_COMMENTS = {".yaml", ".yml", ".toml", ".sh", ".cff"}


def hits_of(file: str) -> list[Hit]:
    """Return the phrases in a file, which is given below the repository's root."""
    return hits_in(file, (ROOT / file).read_text())


def prose_of(file: str) -> str:
    """Return what is searched of a file, each text on its line."""
    return _prose(file, (ROOT / file).read_text())


def _prose(file: str, source: str) -> str:
    return READERS.get(Path(file).suffix, prose_of_comments)(source)


def hits_in(file: str, source: str) -> list[Hit]:
    """Return the phrases in the source of a file with this name."""
    prose = _prose(file, source)
    lower, lines = prose.lower(), prose.split("\n")
    found = []
    for phrase, (words, expression) in COMPILED.items():
        if not any(word in lower for word in words):
            continue
        for match in expression.finditer(prose):
            at = prose.count("\n", 0, match.start())
            text = " ".join(" ".join(lines[at : at + 1 + match.group().count("\n")]).replace("\0", "|").split())
            if not any(file == where and part in text for where, part in EXCEPTIONS):
                found.append(Hit(file, at + 1, phrase, text))
    return sorted(found, key=lambda hit: hit.line)


def files(places: Iterable[str] = ()) -> list[str]:
    """Return the checked files that git tracks, or will, in these folders and files; all without any."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *places]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    checked = {".py", ".md"} | WITH_COMMENTS
    return [
        each
        for each in sorted(set(listed))
        if (Path(each).suffix in checked or Path(each).name == "Makefile") and (ROOT / each).is_file()
    ]


def room_of(file: str) -> str:
    """Return the package of a module (`labeler/shards`), and the first folder or the name of any other file."""
    parts = file.split("/")
    return "/".join(parts[:2]) if parts[0] == "labeler" and len(parts) > 2 else parts[0]


def main() -> None:
    """Print the hits per phrase, or each of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("places", nargs="*", help="folders and files (default: the whole repository)")
    parser.add_argument("--list", action="store_true", help="print each hit")
    parser.add_argument("--phrase", help="count this phrase only")
    parser.add_argument("--rooms", action="store_true", help="print hits per package")
    given = parser.parse_args()
    hits = [hit for file in files(given.places) for hit in hits_of(file) if given.phrase in (None, hit.phrase)]
    if given.list:
        for hit in hits:
            print(f"{hit.file}:{hit.line}: {hit.phrase} -> {PHRASES[hit.phrase][2]}: {hit.text}")
    counts = Counter(room_of(hit.file) if given.rooms else hit.phrase for hit in hits)
    for name, count in counts.most_common():
        print(f"{count:5}  {name}")
    print(f"{len(hits):5}  in {len({hit.file for hit in hits})} files")


if __name__ == "__main__":
    main()

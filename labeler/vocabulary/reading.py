"""What people write their categories in (.txt, .yaml, .json, COCO/LVIS annotations, lists), read into entries."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml

from labeler import plain_json, plain_yaml
from labeler.errors import Refused, did_you_mean
from labeler.json_stream import JsonStream, Readable
from labeler.vocabulary.crops import ObjectCrop, crops_of
from labeler.vocabulary.data_yaml import is_data_yaml, items_of
from labeler.vocabulary.hints import find_in_line, find_invisible, find_roots

SUFFIXES = (".txt", ".yaml", ".yml", ".json")
MAX_TEXT_BYTES = 4 * 2**20  # LVIS with all synonyms is 80 KB; a larger .txt or .yaml is some other file

ENTRY_KEYS = ("id", "name", "phrases", "negative", "frequency", "supercategory")
FILE_KEYS = ("name", "categories", "negative")
ANNOTATION_KEYS = frozenset({"images", "annotations", "info", "licenses"})
_TEXT_KEYS = ("frequency", "supercategory")
MAX_ENTRIES = 100_000  # categories, or problems with them; five times as many as the largest vocabulary in use
# Line and paragraph separators, control characters and lone surrogates: they break listings, logs and UTF-8.
_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They turn the rest of a line around: a name then reads as another one.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Entry:
    """One category as written. `place` says where ("line 3"); `id` is None when it is to be numbered.

    `phrases` includes the first phrase; `synonyms` are used only on request.
    """

    place: str
    name: str
    phrases: tuple[str, ...]
    id: int | None = None
    negative: bool = False
    synonyms: tuple[str, ...] = ()
    frequency: str | None = None
    supercategory: str | None = None
    crops: tuple[ObjectCrop, ...] = ()


@dataclass
class VocabularyEntries:
    """The entries of one source, and every problem and doubt found on the way."""

    name: str | None = None
    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def clean_phrase(text: str) -> str:
    """Return the words for a prompt: underscores are spaces ("bow_(weapon)" is "bow (weapon)"), runs
    of spaces are one.
    """
    return " ".join(text.replace("_", " ").split())


def phrase_key(phrase: str) -> str:
    """Return the key of a phrase: two with the same key read the same; the tokenizer's own comparison comes later and
    is stricter.
    """
    return phrase.casefold()


def read_file(stream: Readable, suffix: str, source: str) -> VocabularyEntries:
    """Return entries of a file's content by its suffix; a large .json, as annotations are, is streamed.

    Raises:
        Refused: nothing can be read at all.
    """
    data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES and suffix == ".json":
        return read_document(_load_large_json(JsonStream(stream, data), source), None, source)
    if len(data) > MAX_TEXT_BYTES:
        raise Refused(f"{source}: a vocabulary of this kind has at most {MAX_TEXT_BYTES} bytes; this is larger")
    text = _decode(data, source)
    if suffix == ".txt":
        return read_lines(text)
    if suffix == ".json":
        return read_document(_load_json(text, source), None, source)
    document, lines = _load_yaml(text, source)
    return read_document(document, lines, source)


def read_lines(text: str) -> VocabularyEntries:
    """Return a category a line, synonyms after " / ", a `#` at the start or between spaces begins a comment."""
    found = VocabularyEntries()
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: it also splits at control characters
        content = re.split(r"(?:^|\s)#(?:\s|$)|^\s*#", line.rstrip("\r"), maxsplit=1)[0].strip()
        if content:
            add_item(found, content, f"line {number}")
    return found


def read_document(document: Any, lines: Sequence[int] | None, source: str) -> VocabularyEntries:
    """Return entries of a parsed .yaml or .json: a list, or a mapping with `categories` (a vocabulary or annotations).

    Args:
        lines: the line of each list item, where known.
        source: for messages.
    """
    if isinstance(document, Mapping) and is_data_yaml(document):
        annotations, found = False, VocabularyEntries()
        items: Any = items_of(document, found.problems)
    elif isinstance(document, Mapping):
        if "categories" not in document:
            raise Refused(f"{source}: no `categories` in it; a vocabulary is a list, or a mapping with `categories`")
        annotations = bool(ANNOTATION_KEYS & document.keys())
        found = VocabularyEntries() if annotations else _read_header(document)
        items = document["categories"]
    else:
        annotations, found, items = False, VocabularyEntries(), document
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise Refused(f"{source}: categories must be a list, got {_kind(items)}")
    roots = find_roots(items, document.get("annotations") or ()) if annotations else set()
    for position, item in enumerate(items):
        place = f"line {lines[position]}" if lines else f"entry {position + 1}"
        add_item(found, item, place, annotations=annotations)
        if position in roots:
            found.warnings.append(
                f"{place}: {show(item['name'])} has no annotation and is the supercategory of others, as the root that "
                "Roboflow adds; it is looked for like any other, so remove it if it is not an object"
            )
    if isinstance(document, Mapping) and not annotations and not is_data_yaml(document):
        add_negatives(found, document.get("negative"))
    return found


def add_negatives(found: VocabularyEntries, phrases: Any) -> None:
    """Append phrases that compete and are dropped at the end; they are numbered after the largest id."""
    if phrases is None:
        return
    if not isinstance(phrases, Sequence) or isinstance(phrases, str):
        found.problems.append(f"negative: must be a list of phrases, got {_kind(phrases)}")
        return
    numbers = [e.id for e in found.entries if e.id is not None]
    first = max(numbers, default=0) + 1 if numbers else None  # without ids everything is numbered together
    for position, phrase in enumerate(phrases):
        item = {"name": phrase, "negative": True, **({} if first is None else {"id": first + position})}
        add_item(found, item, f"negative entry {position + 1}")


def _read_header(document: Mapping[str, Any]) -> VocabularyEntries:
    found = VocabularyEntries()
    check_keys(document, FILE_KEYS, "top level", found.problems)
    name = document.get("name")
    if name is not None and not isinstance(name, str):
        found.problems.append(f"top level: name must be text, got {_kind(name)}")
    elif name is not None:
        found.name = name
    return found


def add_item(found: VocabularyEntries, item: Any, place: str, *, annotations: bool = False) -> None:
    """Add one item to `found`, or its problems. Annotation files carry many keys of their own: those are ignored."""
    if len(found.entries) + len(found.problems) >= MAX_ENTRIES:
        raise Refused(f"{place}: more than {MAX_ENTRIES} categories or problems: this is not a vocabulary")
    problems: list[str] = []
    if isinstance(item, str):
        entry = _from_line(item, place, problems)
        if entry is not None and (doubt := find_in_line(item)) is not None:
            found.warnings.append(f"{place}: {show(item)} {doubt}")
    elif isinstance(item, Mapping):
        if not annotations:
            check_keys(item, ENTRY_KEYS, place, problems)
        entry = _from_mapping(item, place, problems, synonyms=annotations)
    else:
        problems.append(f"{place}: a category is text or a mapping with `name`, got {_kind(item)}{_quote_hint(item)}")
        entry = None
    found.problems.extend(problems)
    if entry is not None:
        found.entries.append(entry)
        doubts = ((text, find_invisible(text)) for text in dict.fromkeys((clean_phrase(entry.name), *entry.phrases)))
        found.warnings += [f"{place}: {show(text)} {doubt}" for text, doubt in doubts if doubt is not None]


def _from_line(line: str, place: str, problems: list[str]) -> Entry | None:
    parts = [part.strip() for part in re.split(r"(?<!\S)/(?!\S)", line)]
    if not all(parts):
        problems.append(f'{place}: {show(line)} has an empty part; write "name / synonym / synonym"')
        return None
    if not all(_is_clean(part, "name", place, problems) for part in parts):
        return None
    return Entry(place, parts[0], tuple(map(clean_phrase, parts)))


def _from_mapping(item: Mapping[str, Any], place: str, problems: list[str], *, synonyms: bool) -> Entry | None:
    before = len(problems)
    name = item.get("name")
    if not isinstance(name, str):
        got = f"got {_kind(name)}{_quote_hint(name)}" if "name" in item else "it is missing"
        problems.append(f"{place}: `name` must be text, {got}")
        return None
    name = name.strip()
    _is_clean(name, "name", place, problems)
    identifier = item.get("id")
    if identifier is not None and (isinstance(identifier, bool) or not isinstance(identifier, int)):
        problems.append(f"{place}: the id of {show(name)} must be a whole number, got {_kind(identifier)}")
    negative = item.get("negative", False)
    if not isinstance(negative, bool):
        problems.append(f"{place}: `negative` of {show(name)} must be true or false, got {_kind(negative)}")
    item, pictures = _apart(item)
    crops = crops_of(pictures, f"{place}: {show(name)}", problems)
    phrases = _texts(item, "phrases", name, place, problems)
    if "phrases" in item and not phrases and not pictures:
        problems.append(f"{place}: `phrases` of {show(name)} is empty; leave it out and the name is the phrase")
    more = _texts(item, "synonyms", name, place, problems) if synonyms else ()
    texts = {key: item.get(key) for key in _TEXT_KEYS}
    for key, value in texts.items():
        if value is not None and not isinstance(value, str) and not synonyms:
            problems.append(f"{place}: `{key}` of {show(name)} must be text, got {_kind(value)}")
    if len(problems) > before:
        return None
    kept = {key: value if isinstance(value, str) else None for key, value in texts.items()}
    first = tuple(map(clean_phrase, phrases or (() if crops else (name,))))
    return Entry(place, name, first, identifier, negative, tuple(map(clean_phrase, more)), crops=crops, **kept)


def _apart(item: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return (a category with its phrases of words, its phrases that are mappings)."""
    written = item.get("phrases")
    if not isinstance(written, list | tuple):
        return item, []
    pictures = [phrase for phrase in written if isinstance(phrase, Mapping)]
    return {**item, "phrases": [phrase for phrase in written if not isinstance(phrase, Mapping)]}, pictures


def _texts(item: Mapping[str, Any], key: str, name: str, place: str, problems: list[str]) -> tuple[str, ...]:
    values = item.get(key)
    if values is None:
        return ()
    if not isinstance(values, Sequence) or isinstance(values, str):
        problems.append(f"{place}: `{key}` of {show(name)} must be a list of texts, got {_kind(values)}")
        return ()
    for value in values:
        if not isinstance(value, str):
            hint = _quote_hint(value)
            problems.append(f"{place}: `{key}` of {show(name)} must be a list of texts, got {_kind(value)}{hint}")
        else:
            _is_clean(value.strip(), "phrase", place, problems)
    return tuple(value.strip() for value in values if isinstance(value, str))


def _is_clean(text: str, what: str, place: str, problems: list[str]) -> bool:
    if not clean_phrase(text):
        problems.append(f"{place}: {show(text)} is an empty {what}")
        return False
    bad = next((c for c in text if _is_control(c)), None)
    if bad is not None:
        problems.append(f"{place}: the {what} {show(text)} has a control character (U+{ord(bad):04X}); remove it")
    return bad is None


def check_keys(item: Mapping[Any, Any], known: Iterable[str], place: str, problems: list[str]) -> None:
    known = tuple(known)
    for key in item:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; known are {', '.join(known)}"
            problems.append(f"{place}: unknown key {show(str(key))}{hint}")


def show(text: str) -> str:
    """`text` in quotes, on one line, cut where it is very long."""
    escaped = json.dumps(text if len(text) <= 80 else text[:77] + "...", ensure_ascii=False)
    return "".join(f"\\u{ord(c):04x}" if _is_control(c) else c for c in escaped)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL or character in _TURNING


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return {"str": "text", "dict": "a mapping", "list": "a list"}.get(type(value).__name__, type(value).__name__)


def _quote_hint(value: Any) -> str:
    """YAML reads `no` as false, `1` as a number and `2024-01-01` as a date: the cure is always quotes."""
    return "" if value is None or isinstance(value, Sequence | Mapping) else "; put it in quotes"


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(f"{source} line {line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None


def _load_json(text: str, source: str) -> Any:
    try:
        return plain_json.parse(text, object_pairs_hook=_unique_keys)  # twice is almost always a copy error
    except plain_json.NotPlainJson as error:
        raise _not_json(error, source) from None


def _not_json(error: plain_json.NotPlainJson, source: str) -> Refused:
    if error.line is not None:
        return Refused(f"{source} line {error.line}: not JSON: {error.problem}")
    return Refused(f"{source}: not usable as JSON: {error.problem}")


def _load_large_json(document: JsonStream, source: str) -> Any:
    """Return the document without what no vocabulary needs: no images, and of annotations only the category ids, each
    once.
    """
    try:
        if document.is_list():
            return list(islice(document.elements(), MAX_ENTRIES + 1))  # one more than is accepted
        return {key: _needed(key, value) for key, value in document.members()}
    except plain_json.NotPlainJson as error:
        raise _not_json(error, source) from None


def _needed(key: str, value: Any) -> Any:
    if not isinstance(value, Iterator):
        return value
    if key == "annotations":
        ids = (entry.get("category_id") for entry in value if isinstance(entry, Mapping))
        return [{"category_id": id_} for id_ in {id_ for id_ in ids if isinstance(id_, int)}]
    return [] if key == "images" else list(islice(value, MAX_ENTRIES + 1))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {show(next(k for k in keys if keys.count(k) > 1))} is given twice in one object")
    return unique


def _load_yaml(text: str, source: str) -> tuple[Any, list[int] | None]:
    """Return the document, and the line of each category."""
    try:
        document, node = plain_yaml.parse(text)
    except plain_yaml.NotPlainYaml as error:
        line = "" if error.line is None else f" line {error.line}"
        raise Refused(f"{source}{line}: not usable as YAML: {error.problem}") from None
    if document is None:
        raise Refused(f"{source}: empty; write a list of categories")
    return document, _item_lines(node)


def _item_lines(node: yaml.Node | None) -> list[int] | None:
    if isinstance(node, yaml.MappingNode):
        listed = {key.value: value for key, value in node.value if key.value in ("categories", "names")}
        node = listed.get("categories", listed.get("names"))
        if isinstance(node, yaml.MappingNode):  # a data.yaml's names by their indices
            keys = [key for key, _ in node.value if str(key.value).isdecimal()]
            return [key.start_mark.line + 1 for key in sorted(keys, key=lambda key: int(key.value))]
    if not isinstance(node, yaml.SequenceNode):
        return None
    return [item.start_mark.line + 1 for item in node.value]

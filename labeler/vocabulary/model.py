"""The vocabulary: the ordered categories of a run, from a built-in name, a file, a URL or a list."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused, StorageError, did_you_mean, first_lines
from labeler.vocabulary import reading as files
from labeler.vocabulary.crops import ObjectCrop, fingerprinted, read_crop
from labeler.vocabulary.reading import Entry, VocabularyEntries, phrase_key, show

BUILT_IN = {"coco": 80, "lvis_v1": 1203, "objects365_v1": 365}  # name -> number of categories
FROM_MODEL = "from_model"  # the labels of a checkpoint, which has to be there for that
MAX_ID = 2**31 - 1  # the labels' category_id column is int32
_MOST_BESIDE = 10_000  # files that are looked at for one with a near name
_MAX_PROBLEMS = 1000  # lines of one refusal
_SPEC_KEYS = ("name", "categories", "synonyms", "negative")


Check = Callable[["Vocabulary"], Sequence[str]]


@dataclass(frozen=True)
class Category:
    """One category.

    Attributes:
        id: 0..2^31-1, kept in every output. 0 is allowed: many COCO files of one's own start there.
        name: the official name, for people, exports and matching ("aerosol_can").
        phrases: the words for it in a prompt, best first ("aerosol can"); all are mapped to the one id.
        negative: it competes with the others and is dropped at the end.
        frequency: LVIS's r, c or f.
        crops: images of it, which are phrases too, for families that can look for them.
    """

    id: int
    name: str
    phrases: tuple[str, ...]
    negative: bool = False
    frequency: str | None = None
    supercategory: str | None = None
    crops: tuple[ObjectCrop, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The ordered categories of a run.

    Attributes:
        name: for people; not part of the fingerprint.
        warnings: what was skipped while loading, or is probably not meant; one line each.
        doubts: the last of these alone.
        places: where each category was written ("line 3"), by id; empty for one that was not read from a source.
    """

    name: str
    categories: tuple[Category, ...]
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)
    doubts: tuple[str, ...] = field(default=(), compare=False, repr=False)
    places: Mapping[int, str] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def load(
        spec: str | Path | Sequence[Any] | Mapping[str, Any], *, synonyms: bool = False, also: Check | None = None
    ) -> Vocabulary:
        """Return the vocabulary that `spec` means.

        Args:
            spec: a built-in name (coco, lvis_v1, objects365_v1); a path or URL of a .txt, .yaml or .json (a list of
                categories, COCO/LVIS annotations, or YOLO's data.yaml); a list of names or mappings {id, name, phrases,
                negative}; or a mapping {name, synonyms, negative} around a name or path, {categories, ...} around a
                list.
            synonyms: also use the synonyms that LVIS, Objects365 and annotation files carry.
            also: a further check, as of the tokens; it gets the categories that are sound so far, and the problems it
                returns are reported together with the others.

        Raises:
            Refused: not readable, or not a vocabulary; `problems` has a line for each single problem.
        """
        extra: Any = None
        label: str | None = None
        if isinstance(spec, Mapping):
            spec, label, synonyms, extra = _open_mapping(spec, synonyms)
        source, found = _read(spec)
        files.add_negatives(found, extra)
        return _build(found, label or found.name or source, source, synonyms, also)

    @cached_property
    def fingerprint(self) -> str:
        """blake2b-128, hex, of the categories in their order."""
        plain = self.to_json()["categories"]
        return digest_of(canonical_json([{**each, "phrases": fingerprinted(each["phrases"])} for each in plain]))

    def to_json(self) -> dict[str, Any]:
        """Return plain data for vocabulary.json; itself a file that `load` reads. Default values are excluded."""
        return {"name": self.name, "categories": [_to_plain(c) for c in self.categories]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Vocabulary:
        """Return the inverse of `to_json`. Raises Refused."""
        found = files.read_document(data, None, "vocabulary.json")
        _read_crops(found, "")
        return _build(found, found.name or "vocabulary", "vocabulary.json", synonyms=False)

    @cached_property
    def by_id(self) -> dict[int, Category]:
        return {category.id: category for category in self.categories}

    @property
    def negative_ids(self) -> frozenset[int]:
        return frozenset(category.id for category in self.categories if category.negative)

    def __len__(self) -> int:
        """Number of categories, negatives included."""
        return len(self.categories)

    def where(self, category: Category) -> str:
        """For messages: `line 3: category 7 "cat"`."""
        place = self.places.get(category.id)
        return f"{place}: {label(category)}" if place else label(category)


def label(category: Category) -> str:
    """For messages: `category 7 "cat"`."""
    return f"category {category.id} {show(category.name)}"


def _to_plain(category: Category) -> dict[str, Any]:
    phrases = [*category.phrases, *(crop.to_json() for crop in category.crops)]
    plain: dict[str, Any] = {"id": category.id, "name": category.name, "phrases": phrases}
    for f in fields(category)[3:]:
        if f.name != "crops" and (value := getattr(category, f.name)) != f.default:
            plain[f.name] = value
    return plain


def _open_mapping(spec: Mapping[str, Any], synonyms: bool) -> tuple[Any, str | None, bool, Any]:
    """Return what a mapping in a config means: (inner spec, label, synonyms, negative phrases)."""
    problems: list[str] = []
    files.check_keys(spec, _SPEC_KEYS, "vocabulary", problems)
    if problems:
        raise Refused(problems[0], problems)
    name, inner = spec.get("name"), spec.get("categories")
    wanted = spec.get("synonyms", synonyms)
    if not isinstance(wanted, bool):
        raise Refused(f"vocabulary.synonyms must be true or false, got {wanted!r}")
    if not isinstance(name, str | None) or (inner is None and not name):
        raise Refused("vocabulary: say `name` (a built-in name, a path or a URL) or `categories` (a list)")
    if inner is not None and (isinstance(inner, str) or not isinstance(inner, Sequence)):
        raise Refused(f"vocabulary.categories must be a list, got {type(inner).__name__}; a file goes under `name`")
    return (name, None, wanted, spec.get("negative")) if inner is None else (inner, name, wanted, spec.get("negative"))


def _read(spec: Any) -> tuple[str, VocabularyEntries]:
    """Return (what to call the source, its entries)."""
    if isinstance(spec, Path):
        return _read_file(str(spec))
    if isinstance(spec, str):
        return _read_built_in(spec) if spec in BUILT_IN else _read_file(spec)
    if isinstance(spec, Sequence) and not isinstance(spec, bytes):
        found = files.read_document(spec, None, "vocabulary")
        _read_crops(found, "")
        return "list", found
    raise Refused(f"vocabulary: expected a name, a path or a list of categories, got {type(spec).__name__}")


def _read_built_in(name: str) -> tuple[str, VocabularyEntries]:
    data = json.loads((resources.files("labeler.vocabulary") / "builtin" / f"{name}.json").read_bytes())
    found = VocabularyEntries(name)
    for item in data["categories"]:
        files.add_item(found, item, "", annotations=True)
    return name, found


def _read_file(spec: str) -> tuple[str, VocabularyEntries]:
    from labeler import storage

    remote = "://" in spec
    path = urlsplit(spec).path if remote else spec
    suffix = Path(path).suffix.lower()
    if suffix not in files.SUFFIXES:
        raise Refused(_unknown(spec))
    shown = storage.redact(spec) if remote else spec
    try:
        with storage.open_stream(spec) if remote else storage.open_regular(spec) as stream:
            found = files.read_file(stream, suffix, shown)
        _read_crops(found, storage.parent(spec) if remote else str(Path(spec).parent))
    except FileNotFoundError:
        raise Refused(f"vocabulary {shown}: no such file{_beside(Path(spec))}") from None
    except (StorageError, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Refused(f"vocabulary {shown}: {getattr(error, 'strerror', None) or error}") from None
    found.name = found.name or Path(path).stem
    return shown, found


def _beside(path: Path) -> str:
    """Return the folder where a relative path was searched, and the vocabulary file there with the nearest name."""
    folder = path.parent.absolute()
    try:
        names = [each.name for each in islice(folder.iterdir(), _MOST_BESIDE) if each.suffix.lower() in files.SUFFIXES]
    except OSError:
        names = []
    near = [name for name in names if did_you_mean(path.stem, [Path(name).stem])]  # all names end alike
    where = "" if path.is_absolute() else f" in {folder}"
    return where + did_you_mean(path.name, near)


def _read_crops(found: VocabularyEntries, base: str) -> None:
    """The bytes of every crop, those of a relative path from `base`; what cannot be had is a problem of its entry."""
    for position, entry in enumerate(found.entries):
        read = [read_crop(crop, base) for crop in entry.crops]
        found.problems += [f"{entry.place}: {show(entry.name)}: {problem}" for _, problem in read if problem]
        if read:
            found.entries[position] = replace(entry, crops=tuple(crop for crop, _ in read))


def _unknown(spec: str) -> str:
    from labeler import storage

    if spec == FROM_MODEL:
        return f"vocabulary {FROM_MODEL} are the labels of a checkpoint: name that, and nothing beside {FROM_MODEL}"
    return (
        f"vocabulary {show(storage.redact(spec))} is not built in ({', '.join(BUILT_IN)}) and not a file name "
        f"(.txt, .yaml or .json){did_you_mean(spec, BUILT_IN)}"
    )


def refuse(source: str, problems: Sequence[str]) -> Refused:
    """Return the one error for all problems: a single one is in the message itself."""
    if len(problems) == 1:
        return Refused(f"vocabulary {source}: {problems[0]}")
    return Refused(f"vocabulary {source}: {len(problems)} problems", first_lines(problems, _MAX_PROBLEMS))


def _build(found: VocabularyEntries, name: str, source: str, synonyms: bool, also: Check | None = None) -> Vocabulary:
    """Number, check and freeze the entries. Raises Refused with every problem."""
    problems = list(found.problems)
    entries = _number(found.entries, problems)
    warnings = list(found.warnings)
    if synonyms:
        entries = _add_synonyms(entries, warnings)
    categories = [_to_category(entry) for entry in entries]
    unsound = _find_problems(entries, categories)
    problems += [problem for _, problem in unsound]
    if not problems and all(category.negative for category in categories):
        problems.append("no category in it; name at least one that is not negative")
    bad = {position for position, _ in unsound}
    sound = [pair for position, pair in enumerate(zip(entries, categories, strict=True)) if position not in bad]
    places = {category.id: entry.place for entry, category in sound if entry.place}
    vocabulary = Vocabulary(
        name, tuple(category for _, category in sound), tuple(warnings), tuple(found.warnings), places
    )
    problems += also(vocabulary) if also else []
    if problems:
        raise refuse(source, problems)
    return vocabulary


def _number(entries: Sequence[Entry], problems: list[str]) -> list[Entry]:
    """Return ids from 1 in order where none is given; some given and some not is a problem."""
    missing = [entry for entry in entries if entry.id is None]
    if missing and len(missing) < len(entries):
        hint = "has no id, others have; give every category one, or none"
        problems += [f"{entry.place}: {show(entry.name)} {hint}" for entry in missing]
        return [entry for entry in entries if entry.id is not None]
    return [replace(entry, id=number) for number, entry in enumerate(entries, 1)] if missing else list(entries)


def _add_synonyms(entries: Sequence[Entry], warnings: list[str]) -> list[Entry]:
    """Synonyms become further phrases, but for those that another category claims, too."""
    claims = Counter(key for e in entries for key in {phrase_key(p) for p in (*e.phrases, *e.synonyms)})
    extended = []
    for entry in entries:
        own = {phrase_key(phrase) for phrase in entry.phrases}
        shared = [s for s in entry.synonyms if claims[phrase_key(s)] > 1 and phrase_key(s) not in own]
        at = f"{entry.place}: " if entry.place else ""
        for synonym in shared:
            what = f"synonym {show(synonym)} of {show(entry.name)}"
            warnings.append(f"{at}{what} dropped: another category claims it, too")
        kept = tuple(s for s in entry.synonyms if s not in shared)
        extended.append(replace(entry, phrases=(*entry.phrases, *kept)))
    return extended


def _to_category(entry: Entry) -> Category:
    unique: dict[str, str] = {}
    for phrase in entry.phrases:
        unique.setdefault(phrase_key(phrase), phrase)  # the first spelling stays
    phrases = tuple(unique.values())
    number = -1 if entry.id is None else entry.id
    crops = tuple({crop.digest: crop for crop in entry.crops}.values())
    return Category(number, entry.name, phrases, entry.negative, entry.frequency, entry.supercategory, crops)


def _find_problems(entries: Sequence[Entry], categories: Sequence[Category]) -> list[tuple[int, str]]:
    """Return ids out of range, and ids, names and phrases that two categories share: (position, problem)."""
    problems: list[tuple[int, str]] = []
    ids: dict[int, int] = {}  # id, name, phrase -> position of the first that has it
    names: dict[str, int] = {}
    phrases: dict[str, int] = {}
    crops: dict[bytes, int] = {}
    for position, (entry, category) in enumerate(zip(entries, categories, strict=True)):
        me = f"{entry.place}: {label(category)}" if entry.place else label(category)

        def taken(what: str, owner: int, me: str = me) -> str:
            place = entries[owner].place
            return f"{me}: {what} is taken by {label(categories[owner])}" + (f" ({place})" if place else "")

        if not 0 <= category.id <= MAX_ID:
            problems.append((position, f"{me}: ids go from 0 to {MAX_ID}"))
        if (owner := ids.setdefault(category.id, position)) != position:
            problems.append((position, taken("the id", owner)))
        if (owner := names.setdefault(category.name, position)) != position:
            problems.append((position, taken("the name", owner)))
            continue  # its phrases would only say the same again
        for phrase in category.phrases:
            if (owner := phrases.setdefault(phrase_key(phrase), position)) != position:
                why = taken(f"phrase {show(phrase)}", owner) + "; a phrase means one category"
                problems.append((position, why))
        for crop in category.crops:
            if crop.data and (owner := crops.setdefault(crop.data, position)) != position:
                problems.append((position, taken(f"image {show(crop.name)}", owner) + "; a crop means one category"))
    return problems

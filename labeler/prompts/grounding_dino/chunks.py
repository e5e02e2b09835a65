"""Prompts: the phrases of a vocabulary packed into captions under the token budget, with each phrase's positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused
from labeler.prompts.family import Cost, PlanReport
from labeler.prompts.grounding_dino.chunk import NO_PADDING, ChunkPhrase, Padding, PromptChunk
from labeler.prompts.grounding_dino.tokenizer import CLS_ID, PERIOD_ID, QUESTION_ID, SEP_ID, Tokenizer
from labeler.vocabulary import Category, Vocabulary, refuse
from labeler.vocabulary.reading import show

NAME = "grounding-dino"  # of the family
MAX_TOKENS = 256  # Grounding DINO's max_text_len: the model cuts what is longer
MIN_TOKENS = 4  # [CLS] word . [SEP]
MAX_CHUNKS = 2**15 - 1  # the labels' chunk column is int16
_SHOWN_CHUNKS = 20
PACKED = "packed"
IN_ORDER = 40  # names per chunk of the protocols that fill one after the other: what GLIP and MMDetection ask LVIS with
_WORDS = {  # protocol -> what `lines` says of it
    PACKED: "",
    "mmdet": ", filled in order as MMDetection does",
    "glip": ", filled in order and read as one sentence as GLIP does",
    "sentence": ", one for each phrase",
}
_SEPARATORS = {CLS_ID: "[CLS]", SEP_ID: "[SEP]", PERIOD_ID: ".", QUESTION_ID: "?"}


@dataclass(frozen=True)
class Prompts:
    """All chunks of a run: as many passes of the detector for each image. Grounding DINO's `PromptPlan`.

    Category ids below 0 are of names that a revision has removed: their chunks keep their text, so they are scored as
    before, and their detections are dropped.

    Attributes:
        protocol: `prompts.protocol`.
        padding: of a revised plan; what the chunks were padded to that it has kept.
    """

    chunks: tuple[PromptChunk, ...]
    negative_ids: frozenset[int]
    max_tokens: int
    protocol: str = PACKED
    padding: Padding = NO_PADDING

    @property
    def whole(self) -> bool:
        """Return whether every word of a chunk sees all others, and not its own phrase alone."""
        return self.protocol == "glip"

    @property
    def family(self) -> str:
        return NAME

    @property
    def passes(self) -> int:
        return len(self.chunks)

    @property
    def phrase_categories(self) -> tuple[tuple[int, ...], ...]:
        """Of each chunk the category id of each phrase."""
        return tuple(tuple(phrase.category_id for phrase in chunk.phrases) for chunk in self.chunks)

    @cached_property
    def fingerprint(self) -> str:
        """blake2b-128, hex, of everything the detector sees."""
        return digest_of(canonical_json(self.to_json()))

    @property
    def tokens_per_chunk(self) -> tuple[int, ...]:
        """Tokens of each chunk, [CLS] and [SEP] included; the budget is `max_tokens`."""
        return tuple(len(chunk.input_ids) for chunk in self.chunks)

    def lines(self) -> list[str]:
        """Chunks, passes and how full the chunks are, for people."""
        fill, count = self.tokens_per_chunk, self.passes
        chunks = "1 prompt chunk" if count == 1 else f"{count} prompt chunks"
        passes = "1 pass" if count == 1 else f"{count} passes"
        percent = 100 * sum(fill) / (self.max_tokens * count)
        shown = " ".join(map(str, fill[:_SHOWN_CHUNKS])) + (" ..." if count > _SHOWN_CHUNKS else "")
        return [
            f"{chunks} of at most {self.max_tokens} tokens{_WORDS[self.protocol]}: {passes} of the detector per image",
            f"tokens per chunk: {shown} ({percent:.0f}% full)",
        ]

    def cost(self) -> Cost:
        return Cost("image backbone", "encoder and decoder")

    def settings(self) -> dict[str, Any]:
        return {"prompt_chunks": len(self.chunks), "prompt_max_tokens": self.max_tokens} | self._protocol("prompt_")

    def _protocol(self, prefix: str = "") -> dict[str, str]:
        """Return no fields for the default: runs from before there were others have none."""
        return {} if self.protocol == PACKED else {f"{prefix}protocol": self.protocol}

    def to_json(self) -> dict[str, Any]:
        """Return plain data for prompts.json."""
        chunks = [
            {
                "caption": chunk.caption,
                "input_ids": list(chunk.input_ids),
                "phrases": [
                    {"category_id": p.category_id, "text": p.text, "positions": list(p.positions)}
                    for p in chunk.phrases
                ],
            }
            for chunk in self.chunks
        ]
        limits = {"max_tokens": self.max_tokens, "negative_ids": sorted(self.negative_ids)}
        padding = {} if self.padding == NO_PADDING else {"padding": asdict(self.padding)}
        return {**self._protocol(), **limits, **padding, "chunks": chunks}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Prompts:
        """Return the inverse of `to_json`. Raises Refused where the data cannot be what `to_json` wrote."""
        try:
            chunks = tuple(_chunk_from_json(index, chunk) for index, chunk in enumerate(data["chunks"]))
            protocol = data.get("protocol", PACKED)
            if protocol not in _WORDS:
                raise ValueError(f"protocol {protocol!r}")
            padding = Padding(**{name: int(least) for name, least in data.get("padding", {}).items()})
            negative_ids = frozenset(map(int, data["negative_ids"]))
            return Prompts(chunks, negative_ids, int(data["max_tokens"]), protocol, padding)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"prompts.json: damaged: {type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class Spelled:
    """A phrase with its token ids."""

    category: Category
    text: str
    ids: tuple[int, ...]

    @property
    def cost(self) -> int:
        return len(self.ids) + 1  # its period


def check(vocabulary: Vocabulary, tokenizer: Tokenizer, max_tokens: int = MAX_TOKENS) -> PlanReport:
    """Return everything that is wrong with the vocabulary for this tokenizer, all at once, without a model."""
    _refuse_budget(max_tokens)
    spelled = spell(vocabulary, tokenizer)
    report = PlanReport(warnings=list(vocabulary.warnings))
    owners: dict[tuple[int, ...], Spelled] = {}
    for phrase in spelled:
        me = f"{vocabulary.where(phrase.category)}: phrase {show(phrase.text)}"
        problem = _find_problem(phrase, tokenizer)
        if problem is not None:
            report.problems.append(f"{me} {problem}")
            continue
        if (warning := _find_warning(phrase, tokenizer)) is not None:
            report.warnings.append(f"{me} {warning}")
        owner = owners.setdefault(phrase.ids, phrase)
        if owner is phrase:
            continue
        if owner.category.id == phrase.category.id:
            report.warnings.append(f"{me} is the same tokens as {show(owner.text)}: used once")
        else:
            where = vocabulary.where(owner.category)
            report.problems.append(f"{me} is the same tokens as {show(owner.text)} of {where}; change one of them")
    report.problems.extend(_find_too_long(vocabulary, spelled, max_tokens))
    return report


def pack(
    vocabulary: Vocabulary,
    tokenizer: Tokenizer,
    *,
    max_tokens: int = MAX_TOKENS,
    max_categories: int | None = None,
    protocol: str = PACKED,
) -> Prompts:
    """Pack all phrases into as few chunks as first-fit finds, or as another protocol has it.

    Packed: in vocabulary order, each category goes into the first chunk that has room for all its phrases, else into a
    new one. (Filling one chunk after the other instead costs a chunk more for LVIS: 16 against 15, and 15 is the least
    possible for its 3,800 tokens.) A category too large for any chunk is spread over several. The same vocabulary,
    tokenizer and limits give the same chunks.

    Args:
        max_tokens: of a chunk, [CLS] and [SEP] included.
        max_categories: of a chunk, negatives not counted; None for no limit, or 40 where chunks fill in order.
        protocol: "packed"; "mmdet" and "glip" fill one chunk after the other; "sentence" gives each phrase its own.

    Raises:
        Refused: with every problem that `check` finds.
    """
    if max_categories is not None and max_categories < 1:
        raise Refused(f"prompts.max_categories must be at least 1, got {max_categories}")
    problems = check(vocabulary, tokenizer, max_tokens).problems
    if problems:
        raise refuse(vocabulary.name, problems)
    spelled = drop_repeated(spell(vocabulary, tokenizer))
    negatives = [phrase for phrase in spelled if phrase.category.negative]
    room = max_tokens - 2 - cost_of(negatives)
    bins = binned(spelled, room, max_categories, protocol)
    if len(bins) > MAX_CHUNKS:
        raise Refused(
            f"vocabulary {vocabulary.name}: {len(bins)} prompt chunks, at most {MAX_CHUNKS}; use fewer phrases"
        )
    chunks = tuple(assemble(index, [*members, *negatives]) for index, members in enumerate(bins))
    return Prompts(chunks, vocabulary.negative_ids, max_tokens, protocol)


def binned(spelled: list[Spelled], room: int, max_categories: int | None, protocol: str) -> list[list[Spelled]]:
    """Return the phrases of each chunk, without the negatives that every chunk has."""
    if protocol == "sentence":
        return [[phrase] for phrase in spelled if not phrase.category.negative]
    groups = _group(spelled, room)
    if protocol == PACKED:
        return _first_fit(groups, room, max_categories)
    return _first_fit(groups, room, max_categories or IN_ORDER, in_order=True)


def positive_map(chunk: PromptChunk, width: int) -> npt.NDArray[np.float32]:
    """Return (phrases, width) float32: row i averages the word tokens of phrase i, so that `p @ map.T` are its mean
    scores.

    Args:
        width: number of tokens of the (padded) text, at least the chunk's own.
    """
    if width < len(chunk.input_ids):
        raise ValueError(f"width {width} is less than the chunk's {len(chunk.input_ids)} tokens")
    weights = np.zeros((len(chunk.phrases), width), np.float32)
    for row, phrase in enumerate(chunk.phrases):
        weights[row, list(phrase.positions)] = 1 / len(phrase.positions)
    return weights


def _refuse_budget(max_tokens: int) -> None:
    if not MIN_TOKENS <= max_tokens <= MAX_TOKENS:
        raise Refused(
            f"prompts.max_tokens must be {MIN_TOKENS} to {MAX_TOKENS} (the model reads no more), got {max_tokens}"
        )


def spell(vocabulary: Vocabulary, tokenizer: Tokenizer) -> list[Spelled]:
    return [Spelled(c, text, tuple(tokenizer.word_ids(text))) for c in vocabulary.categories for text in c.phrases]


def _find_problem(phrase: Spelled, tokenizer: Tokenizer) -> str | None:
    """Return what makes the phrase unusable; compared by token id, because that is what the model separates at."""
    if not phrase.ids:
        return "has no token; use other words"
    separators = [text for number, text in _SEPARATORS.items() if number in phrase.ids]
    if separators:
        return f"has {' and '.join(separators)} in it, which separates phrases; write it without"
    if tokenizer.special_ids.intersection(phrase.ids):
        return "has a special token in it; use other words"
    if all(map(tokenizer.is_unknown, phrase.ids)):
        return "is unknown to the tokenizer (only [UNK]); use other words"
    return None


def _find_warning(phrase: Spelled, tokenizer: Tokenizer) -> str | None:
    """Return what makes the phrase weak: the model gets little or nothing from such tokens, but others may carry it."""
    if any(map(tokenizer.is_unknown, phrase.ids)):
        return "is partly unknown to the tokenizer ([UNK])"
    tokens = [tokenizer.token(i) for i in phrase.ids]
    words: list[list[str]] = []
    for token in tokens:
        if token.startswith("##") and words:
            words[-1].append(token[2:])
        else:
            words.append([token])
    spelled_out = any(len(word) > 2 and all(len(piece) == 1 for piece in word) for word in words)
    letters_only = all(len(token) == 1 for token in tokens) and not phrase.text.isascii()
    if spelled_out or letters_only:
        return "falls to single characters: the tokenizer does not know these words"
    return None


def _find_too_long(vocabulary: Vocabulary, spelled: Sequence[Spelled], max_tokens: int) -> list[str]:
    """Return phrases that fit into no chunk beside the negative ones."""
    room, negative = max_tokens - 2, cost_of(p for p in spelled if p.category.negative)
    if negative > room - 2:
        return [f"the negative phrases take {negative} of {room} tokens in every chunk; use fewer"]
    beside = f" beside the negative phrases' {negative}" if negative else ""
    return [
        f"{vocabulary.where(p.category)}: phrase {show(p.text)} is too long: {p.cost} tokens with its period, "
        f"a chunk has {room}{beside}; use fewer words"
        for p in spelled
        if not p.category.negative and p.cost > room - negative
    ]


def drop_repeated(spelled: Iterable[Spelled]) -> list[Spelled]:
    """Return the first of each token sequence; `check` has seen to it that the others are of the same category."""
    unique: dict[tuple[int, ...], Spelled] = {}
    for phrase in spelled:
        unique.setdefault(phrase.ids, phrase)
    return list(unique.values())


def cost_of(phrases: Iterable[Spelled]) -> int:
    return sum(phrase.cost for phrase in phrases)


def _group(spelled: Iterable[Spelled], room: int) -> list[list[Spelled]]:
    """Return phrases that stay together: those of a category, or single ones where a category is too
    large for a chunk.
    """
    by_category: dict[int, list[Spelled]] = {}
    for phrase in spelled:
        if not phrase.category.negative:
            by_category.setdefault(phrase.category.id, []).append(phrase)
    groups = []
    for phrases in by_category.values():
        groups += [phrases] if cost_of(phrases) <= room else [[phrase] for phrase in phrases]
    return groups


def _first_fit(
    groups: Iterable[list[Spelled]], room: int, max_categories: int | None, *, in_order: bool = False
) -> list[list[Spelled]]:
    """
    Args:
        in_order: only the last chunk takes more.
    """
    bins: list[list[Spelled]] = []
    left: list[int] = []  # tokens
    members: list[set[int]] = []  # category ids
    first_open = 0  # chunks before it have no room for even the shortest phrase
    for group in groups:
        cost, category = cost_of(group), group[0].category.id
        for at in range(first_open, len(bins) + 1):
            if at == len(bins):
                bins.append([])
                left.append(room)
                members.append(set())
            full = max_categories is not None and len(members[at] | {category}) > max_categories
            if cost <= left[at] and not full:
                break
        bins[at] += group
        left[at] -= cost
        members[at].add(category)
        if in_order:
            first_open = len(bins) - 1
        while first_open < len(bins) and left[first_open] < 2:
            first_open += 1
    return bins


def assemble(index: int, members: Sequence[Spelled]) -> PromptChunk:
    ids, phrases = [CLS_ID], []
    for member in members:
        positions = tuple(range(len(ids), len(ids) + len(member.ids)))
        phrases.append(ChunkPhrase(member.category.id, member.text, positions))
        ids += [*member.ids, PERIOD_ID]
    caption = " ".join(f"{member.text.lower()} ." for member in members)
    return PromptChunk(index, caption, (*ids, SEP_ID), tuple(phrases))


def _chunk_from_json(index: int, data: Mapping[str, Any]) -> PromptChunk:
    ids = tuple(map(int, data["input_ids"]))
    phrases = tuple(
        ChunkPhrase(int(p["category_id"]), str(p["text"]), tuple(map(int, p["positions"]))) for p in data["phrases"]
    )
    if len(ids) < MIN_TOKENS or ids[0] != CLS_ID or ids[-2:] != (PERIOD_ID, SEP_ID):
        raise ValueError(f"chunk {index} does not read [CLS] ... . [SEP]")
    at = 1
    for phrase in phrases:
        end = at + len(phrase.positions)
        if not phrase.positions or phrase.positions != tuple(range(at, end)) or ids[end : end + 1] != (PERIOD_ID,):
            raise ValueError(f"chunk {index}: positions of {show(phrase.text)} do not fit")
        at = end + 1
    if at != len(ids) - 1:
        raise ValueError(f"chunk {index}: tokens of no phrase")
    return PromptChunk(index, str(data["caption"]), ids, phrases)

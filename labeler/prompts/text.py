"""What `labeler vocabulary check`, `list` and `show` print, as lines."""

from __future__ import annotations

from labeler.prompts import MAX_TOKENS, check, pack
from labeler.prompts.tokenizer import Tokenizer
from labeler.vocabulary import BUILT_IN, Category, Vocabulary


def describe(
    vocabulary: Vocabulary,
    tokenizer: Tokenizer | None,
    *,
    max_tokens: int = MAX_TOKENS,
    max_categories: int | None = None,
) -> list[str]:
    """Counts, chunks and their fill, then `warning: ...` and `problem: ...` lines.

    Without a tokenizer only what needs none. Raises Refused for limits that no chunk can keep.
    """
    lines = _describe_counts(vocabulary)
    if tokenizer is None:
        return [*lines, *(f"warning: {w}" for w in vocabulary.warnings)]
    report = check(vocabulary, tokenizer, max_tokens)
    if not report.problems:
        fill = pack(vocabulary, tokenizer, max_tokens=max_tokens, max_categories=max_categories).tokens_per_chunk
        passes = "1 pass" if len(fill) == 1 else f"{len(fill)} passes"
        chunks = "1 prompt chunk" if len(fill) == 1 else f"{len(fill)} prompt chunks"
        percent = 100 * sum(fill) / (max_tokens * len(fill))
        lines.append(f"{chunks} of at most {max_tokens} tokens: {passes} of the detector per image")
        lines.append(f"tokens per chunk: {' '.join(map(str, fill))} ({percent:.0f}% full)")
    return [*lines, *(f"warning: {w}" for w in report.warnings), *(f"problem: {p}" for p in report.problems)]


def list_built_in() -> list[str]:
    """A line for each built-in vocabulary."""
    return [f"{name}: {size} categories" for name, size in BUILT_IN.items()]


def show_categories(vocabulary: Vocabulary) -> list[str]:
    """A tab-separated line for each category: id, name, its phrases where they say more, its marks."""
    return [_show_category(category) for category in vocabulary.categories]


def _describe_counts(vocabulary: Vocabulary) -> list[str]:
    ids = [category.id for category in vocabulary.categories]
    phrases = sum(len(category.phrases) for category in vocabulary.categories)
    lines = [
        f"{vocabulary.name}: {len(ids)} categories ({len(vocabulary.negative_ids)} negative), {phrases} phrases, "
        f"ids {min(ids)}..{max(ids)}, fingerprint {vocabulary.fingerprint}"
    ]
    frequencies = [category.frequency for category in vocabulary.categories if category.frequency]
    if frequencies:
        lines.append("frequency: " + ", ".join(f"{f} {frequencies.count(f)}" for f in sorted(set(frequencies))))
    return lines


def _show_category(category: Category) -> str:
    text = f"{category.id}\t{category.name}"
    if category.phrases != (category.name,):
        text += "\t" + " / ".join(category.phrases)
    marks = ["negative"] if category.negative else []
    marks += [mark for mark in (category.frequency, category.supercategory) if mark]
    return f"{text}\t({', '.join(marks)})" if marks else text

"""What `labeler vocabulary check`, `list` and `show` print, as lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labeler.config import PromptsConfig
from labeler.prompts.family import Planner
from labeler.vocabulary import BUILT_IN, Category, Vocabulary

_ALONE = 10  # most warnings of one kind with one line per warning
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"\d+")


def describe(vocabulary: Vocabulary, planner: Planner | None, prompts: PromptsConfig | None = None) -> list[str]:
    """Count, the plan's own lines, then `warning: ...` and `problem: ...` lines.

    Args:
        planner: of a checkpoint; None says only what needs none.
        prompts: None for the defaults.

    Raises:
        Refused: for limits that no plan can keep.
    """
    lines, prompts = _describe_counts(vocabulary), prompts or PromptsConfig()
    if planner is None:
        return [*lines, *warning_lines(vocabulary.warnings)]
    report = planner.check(vocabulary, prompts)
    if not report.problems:
        lines += planner.plan(vocabulary, prompts).lines()
    return [*lines, *warning_lines(report.warnings), *(f"problem: {p}" for p in report.problems)]


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """Return `warning: ...` lines; many of one kind, which differ in names and numbers alone, are one line."""
    kinds: dict[str, list[str]] = {}
    for warning in warnings:
        kinds.setdefault(_NUMBER.sub("0", _QUOTED.sub('""', warning)), []).append(warning)
    lines = []
    for alike in kinds.values():
        if len(alike) <= _ALONE:
            lines += [f"warning: {warning}" for warning in alike]
        else:
            lines.append(f"warning: {len(alike):,} of this kind, the first: {alike[0]}")
    return lines


def list_built_in() -> list[str]:
    """Return a line for each built-in vocabulary."""
    return [f"{name}: {size} categories" for name, size in BUILT_IN.items()]


def show_categories(vocabulary: Vocabulary) -> list[str]:
    """Return a tab-separated line for each category: id, name, its phrases where they say more, its marks."""
    return [_show_category(category) for category in vocabulary.categories]


def _describe_counts(vocabulary: Vocabulary) -> list[str]:
    ids = [category.id for category in vocabulary.categories]
    phrases = sum(len(category.phrases) + len(category.crops) for category in vocabulary.categories)
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
    text += "".join(f"\timage {crop.name}" for crop in category.crops)
    marks = ["negative"] if category.negative else []
    marks += [mark for mark in (category.frequency, category.supercategory) if mark]
    return f"{text}\t({', '.join(marks)})" if marks else text

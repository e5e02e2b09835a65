"""What `labeler vocabulary try` prints, and the vocabulary file that it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from labeler.evaluation.phrases import Best, Figures
from labeler.trial.phrases import MOST_BOXES, CategoryTrial, PhraseTrial
from labeler.vocabulary import Category, Vocabulary
from labeler.vocabulary.reading import show

_FIRST_LINE = "# Written by `labeler vocabulary try`"
_SHOWN_NAMES = 5


def describe(trial: PhraseTrial) -> Iterator[str]:
    """Yield the sample, then a table for each category, those with the lowest AP first, and what was chosen."""
    yield from _sample(trial)
    for each in sorted(trial.categories, key=lambda one: (one.together.ap, one.category.id)):
        yield ""
        yield from _category(each)
    yield ""
    yield from _choice(trial)


def _sample(trial: PhraseTrial) -> Iterator[str]:
    truth, detect = trial.truth, trial.job.config.detect
    phrases = sum(len(each.tried) for each in trial.categories)
    yield (
        f"sample      {trial.images:,} images with {len(truth.image):,} annotated objects, of {truth.source}; "
        f"{phrases:,} phrases of {len(trial.categories):,} categories are judged"
    )
    yield f"prompts     {len(trial.job.vocabulary):,} phrases in {trial.job.plan.lines()[0]}"
    assignment = "each phrase has a score of its own for every box" if detect.assignment == "flattened" else ""
    yield (
        f"measured    AP by {trial.rules}'s rules, interval by the bootstrap over images; recall at IoU 0.5 from score "
        f"{detect.score_floor:g}, interval by Wilson; both 95%" + (f"; {assignment}" if assignment else "")
    )
    if trial.failed:
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(trial.failed.items()))
        yield f"failed      {reasons}: these count as images without boxes"
    if trial.resized:
        yield f"sizes       {trial.resized:,} images have another size in the annotations: are they the same images?"
    if trial.at_most_boxes:
        yield f"capped      {trial.at_most_boxes:,} images have {MOST_BOXES:,} boxes, over all phrases: raise the floor"
    for what, categories in (
        ("are not in the annotations", trial.unknown),
        ("have no object in the sample", trial.unseen),
    ):
        if categories:
            yield f"not judged  {len(categories):,} categories {what}: {_some(categories)}"
    if trial.left_out:
        texts = ", ".join(show(candidate.text) for candidate in trial.left_out[:_SHOWN_NAMES])
        more = ", ..." if len(trial.left_out) > _SHOWN_NAMES else ""
        yield f"excluded    {len(trial.left_out):,} phrases that the model cannot distinguish or read: {texts}{more}"


def _some(categories: tuple[Category, ...]) -> str:
    shown = ", ".join(category.name for category in categories[:_SHOWN_NAMES])
    return shown + (", ..." if len(categories) > _SHOWN_NAMES else "")


def _category(each: CategoryTrial) -> Iterator[str]:
    rows = [
        (
            "*" if tried.candidate in each.chosen else " ",
            tried.candidate.text + (f" ({tried.candidate.proposed_by})" if tried.candidate.proposed_by else ""),
            tried.figures,
        )
        for tried in each.tried
    ]
    if len(each.own) > 1:
        rows.append((" ", "[its phrases together]", each.together))
    if each.changed and len(each.chosen) > 1:
        rows.append((" ", "[chosen together]", each.chosen_together))
    width = max(len(text) for _, text, _ in rows)
    objects = each.together.objects
    yield (
        f"{each.category.id}  {show(each.category.name)}, {objects:,} objects"
        + ("" if each.enough else ": too few to choose by")
    )
    yield f"    {'phrase':{width}}  {'AP':^19}  {'recall':^19}   boxes  where the best {objects:,} are"
    for mark, text, figures in rows:
        yield (
            f"  {mark} {text:{width}}  {_with_interval(figures.ap, figures.ap_interval)}  "
            f"{_with_interval(figures.recall, figures.recall_interval)}  {figures.boxes:>6,}  {_where(figures)}"
        )


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    """19 characters."""
    if math.isnan(value) or math.isnan(interval[0]):
        return f"{value:5.3f}".ljust(19)
    return f"{value:5.3f} ({interval[0]:5.3f}-{interval[1]:5.3f})"


def _where(figures: Figures) -> str:
    best: Best = figures.best
    if not best.boxes:
        return "nowhere: no box"
    parts = [("right", best.right), ("again", best.again), *best.others[:3], ("nothing", best.nothing)]
    parts.append(("other categories", sum(count for _, count in best.others[3:])))
    return ", ".join(f"{name} {count / best.boxes:.0%}" for name, count in parts if count)


def _choice(trial: PhraseTrial) -> Iterator[str]:
    changed = sum(each.changed for each in trial.categories)
    yield f"chosen (*)  {changed:,} categories get other phrases, {len(trial.vocabulary) - changed:,} keep theirs"


def to_yaml(trial: PhraseTrial) -> bytes:
    """Return the vocabulary with the chosen phrases as a file that `Vocabulary.load` reads, itself read once."""
    plain = trial.chosen_vocabulary().to_json()
    Vocabulary.from_json(plain)
    # One category a line, as people edit it; JSON is YAML, and a phrase like `no` or `12` stays a text.
    lines = [f"- {json.dumps(category, ensure_ascii=False)}" for category in plain["categories"]]
    head = f"{_FIRST_LINE} on {trial.images} images\nname: {json.dumps(plain['name'], ensure_ascii=False)}\ncategories:"
    data = "\n".join([head, *lines, ""])
    return data.encode()


def describe_written(data: bytes) -> str | None:
    """Return what a vocabulary file is by its first line; None if `labeler vocabulary try` did not write it."""
    return "an earlier choice of phrases" if data.startswith(_FIRST_LINE.encode()) else None

"""Which words work: label a sample for every phrase of a vocabulary at once, and judge each phrase by ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from labeler.checkpoints import model_uri, resolve
from labeler.config import Config
from labeler.errors import Refused, did_you_mean
from labeler.evaluation.phrases import Figures, Group, PhraseJudge
from labeler.labeling.recipe import labeler_here
from labeler.labeling.resolve import Job, Names, job_of, plan_input, resolve_names, s3_rules
from labeler.labels.records import LABELED, Row
from labeler.prompts import ModuleFamily, UserModule
from labeler.prompts.family import Owner
from labeler.runs.plan import PlannedShard, file_name_prefix
from labeler.shards import Item
from labeler.trial.candidates import Candidate, candidates_of, proposals_for, trial_vocabulary, usable
from labeler.trial.sample import wanted_items
from labeler.truth.alignment import TruthNames
from labeler.truth.category_names import same_name
from labeler.truth.ground_truth import Annotations, GroundTruth, read_ground_truth
from labeler.vocabulary import Category, Vocabulary

MOST_BOXES = 50_000  # of an image, over all phrases: those of a run's cap would push out the weaker phrases
Sample = Sequence[tuple[PlannedShard, Item]]


@dataclass(frozen=True)
class Tried:
    """A phrase, and what it reached alone."""

    candidate: Candidate
    figures: Figures


@dataclass(frozen=True)
class CategoryTrial:
    """Figures of the phrases of one category.

    Attributes:
        tried: best first.
        together: all phrases that the vocabulary has for it.
        chosen: best first; those of the vocabulary where too few objects were seen or no phrase finds any.
        chosen_together: what these reached.
        enough: whether enough objects were seen to choose.
    """

    category: Category
    tried: tuple[Tried, ...]
    together: Figures
    chosen: tuple[Candidate, ...]
    chosen_together: Figures
    enough: bool

    @property
    def own(self) -> set[Candidate]:
        """The phrases that the vocabulary has for it."""
        return {each.candidate for each in self.tried if each.candidate.proposed_by is None}

    @property
    def changed(self) -> bool:
        """Return whether other phrases are chosen."""
        return set(self.chosen) != self.own


@dataclass(frozen=True)
class PhraseTrial:
    """Result of `try_phrases`.

    Attributes:
        images: of the sample; those that could not be labeled count as images without boxes.
        failed: of these, by status.
        resized: images of another size in the annotations.
        at_most_boxes: images with MOST_BOXES boxes.
        unknown: categories that the annotations do not have.
        unseen: categories without an object in the sample.
        left_out: proposals that the checkpoint cannot look for.
    """

    job: Job
    vocabulary: Vocabulary
    truth: GroundTruth
    images: int
    failed: Mapping[str, int]
    resized: int
    at_most_boxes: int
    rules: str
    categories: tuple[CategoryTrial, ...]
    unknown: tuple[Category, ...]
    unseen: tuple[Category, ...]
    left_out: tuple[Candidate, ...]

    def chosen_vocabulary(self) -> Vocabulary:
        """Return the vocabulary with the chosen phrases; categories that keep theirs stay as they are written."""
        chosen = {each.category.id: each.chosen for each in self.categories if each.changed}
        return replace(
            self.vocabulary,
            categories=tuple(
                _with_phrases(category, chosen[category.id]) if category.id in chosen else category
                for category in self.vocabulary.categories
            ),
        )


def _with_phrases(category: Category, chosen: Sequence[Candidate]) -> Category:
    phrases = tuple(candidate.text for candidate in chosen if candidate.crop is None)
    return replace(category, phrases=phrases, crops=tuple(c.crop for c in chosen if c.crop is not None))


def try_phrases(
    config: Config, annotations: Annotations, *, images: int, proposals: bool = True, min_objects: int = 10
) -> PhraseTrial:
    """Label a sample of the annotated images once for all phrases, without Ray, and judge each of them.

    Nothing is written. What is measured, and what is not, is in docs/guides/choose-words.md.

    Args:
        images: how many, at most.
        proposals: also try what built-in vocabularies call these categories.
        min_objects: a category with fewer annotated in the sample keeps its phrases.

    Raises:
        Refused: a checkpoint that reads no words, annotations of other images or other categories, or as `resolve_job`.
    """
    names = _resolve(config)
    truth = read_ground_truth(annotations)
    positions = _positions(names.vocabulary, truth)
    known = replace(
        names.vocabulary, categories=tuple(c for c in names.vocabulary.categories if c.negative or c.id in positions)
    )
    candidates = candidates_of(known) + (proposals_for(names.vocabulary) if proposals else [])
    candidates = [candidate for candidate in candidates if candidate.category_id in positions]
    good, left_out = usable(known, candidates, names.planner, names.config.prompts)
    named = TruthNames(truth)
    sample = wanted_items(config, plan_input(config), lambda name: named.find(name)[0] >= 0, images=images)
    named.refuse_unclear()
    if not sample:
        raise Refused(
            f'annotations {truth.source} are for other images, such as "{truth.file_names[0]}": none of those that '
            "were looked at in the input is among them"
        )
    job = _trial_job(names, trial_vocabulary(known, good))
    rows = dict(_claimed(named, truth, _label(job, sample)))
    part = truth.only(np.isin(np.arange(len(truth.file_names)), list(rows)), np.ones(len(truth.categories), np.bool_))
    found = {place: rows[image].detections for place, image in enumerate(sorted(rows))}
    judge = PhraseJudge(part, found, phrases=len(good), nms_iou=names.config.detect.nms_iou)
    trials, unseen = _judge(judge, known, good, positions, min_objects)
    return PhraseTrial(
        job,
        names.vocabulary,
        part,
        len(rows),
        Counter(row.status for row in rows.values() if row.status not in LABELED),
        sum(_differs(row, truth, image) for image, row in rows.items()),
        sum(len(detections) == MOST_BOXES for detections in found.values()),
        judge.rules.name,
        tuple(trials),
        tuple(c for c in names.vocabulary.categories if not c.negative and c.id not in positions),
        tuple(unseen),
        tuple(left_out),
    )


def _resolve(config: Config) -> Names:
    """As `resolve_names`; refused for a checkpoint that reads no words, whatever its labels are."""
    s3_rules(config).apply()
    module = UserModule.find(config.model.family) if config.model.family is not None else None
    light = resolve(model_uri(config.model_name), revision=config.model.revision, weights=False, module=module)
    if isinstance(light.family.planner(light.folder, config.model), Owner):
        raise Refused(
            f"checkpoint {light.name} is of the family {light.family.name}, which reads no words: its labels are "
            "fixed, so there are no phrases to try; name a checkpoint that looks for names"
        )
    return resolve_names(config.model_copy(update={"masks": None}))


def _positions(vocabulary: Vocabulary, truth: GroundTruth) -> dict[int, int]:
    """Return category id -> position in the ground truth; by name, however it is numbered there."""
    ours = [category for category in vocabulary.categories if not category.negative]
    places = {category.id: place for place, category in enumerate(truth.categories)}
    found = zip(ours, same_name(ours, truth.categories), strict=True)
    positions = {mine.id: places[theirs.id] for mine, theirs in found if theirs is not None}
    if not positions:
        near = did_you_mean(ours[0].name, [category.name for category in truth.categories])
        raise Refused(
            f"no category of vocabulary {vocabulary.name} is among the {len(truth.categories):,} of annotations "
            f'{truth.source}, such as "{truth.categories[0].name}"; categories are matched by name, "{ours[0].name}" '
            f"is not there{near}"
        )
    return positions


def _trial_job(names: Names, trial: Vocabulary) -> Job:
    """Return a job that looks for every phrase by itself, and keeps each box of each phrase."""
    detect: dict[str, Any] = {"max_detections": MOST_BOXES, "nms_iou": 1.0}
    if not isinstance(names.planner, ModuleFamily):  # a user's detector decides by itself what it finds
        detect["assignment"] = "flattened"
    config = names.config.model_copy(update={"detect": names.config.detect.model_copy(update=detect)})
    plan = names.planner.plan(trial, config.prompts)
    return job_of(replace(names, config=config, vocabulary=trial, plan=plan, phrases=None), ())


def _label(job: Job, sample: Sample) -> Iterator[tuple[str, Row]]:
    """Yield (file name, row) of each image; a shard's images at once, so that they share batches."""
    labeler = labeler_here(job, masks=False)
    for shard_id, pairs in groupby(sample, lambda pair: pair[0].shard_id):
        planned, items = zip(*pairs, strict=True)
        prefix = file_name_prefix(planned[0])
        for row in labeler.label(shard_id, items)[0]:
            yield prefix + row.image_key, row


def _claimed(named: TruthNames, truth: GroundTruth, rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[int, Row]]:
    """Yield (position in the ground truth, row), each position once. Refused where two images have one name."""
    taken: dict[int, tuple[int, str, Row]] = {}
    for name, row in rows:
        image, closeness = named.find(name)
        before = taken.get(image)
        if before is not None and before[0] == closeness:
            raise Refused(
                f'annotations {truth.source}: "{truth.file_names[image]}" could be {before[1]} or {name}; write '
                "`file_name` as `labeler export --to coco` does"
            )
        if before is None or closeness > before[0]:
            taken[image] = (closeness, name, row)
    yield from ((image, row) for image, (_, _, row) in taken.items())


def _differs(row: Row, truth: GroundTruth, image: int) -> bool:
    expected = truth.sizes[image]
    return row.width is not None and bool(expected.all()) and (row.height, row.width) != tuple(expected.tolist())


def _judge(
    judge: PhraseJudge,
    vocabulary: Vocabulary,
    candidates: Sequence[Candidate],
    positions: Mapping[int, int],
    least: int,
) -> tuple[list[CategoryTrial], list[Category]]:
    """Return (what each category's phrases reached; the categories without an object)."""
    alone = judge.figures([Group(positions[c.category_id], (n,)) for n, c in enumerate(candidates)])
    numbers: dict[int, list[int]] = {}
    for number, candidate in enumerate(candidates):
        numbers.setdefault(candidate.category_id, []).append(number)
    seen = {id_: mine for id_, mine in numbers.items() if alone[mine[0]].objects}
    own = {id_: [n for n in mine if candidates[n].proposed_by is None] for id_, mine in seen.items()}
    together = _together(judge, positions, own)
    for mine in seen.values():
        mine.sort(key=lambda n: (-alone[n].ap, -alone[n].recall, n))
    enough = {id_ for id_ in seen if together[id_].objects >= least and max(alone[n].ap for n in seen[id_]) > 0}
    chosen, reached = _choose(judge, positions, alone, {id_: seen[id_] for id_ in enough}, own)
    trials = [
        CategoryTrial(
            vocabulary.by_id[id_],
            tuple(Tried(candidates[n], alone[n]) for n in mine),
            together[id_],
            tuple(candidates[n] for n in chosen.get(id_, own[id_])),
            reached.get(id_, together[id_]),
            together[id_].objects >= least,
        )
        for id_, mine in seen.items()
    ]
    return trials, [vocabulary.by_id[id_] for id_ in numbers if id_ not in seen]


def _together(
    judge: PhraseJudge, positions: Mapping[int, int], sets: Mapping[int, Sequence[int]]
) -> dict[int, Figures]:
    figures = judge.figures([Group(positions[id_], tuple(numbers)) for id_, numbers in sets.items()])
    return dict(zip(sets, figures, strict=True))


def _choose(
    judge: PhraseJudge,
    positions: Mapping[int, int],
    alone: Sequence[Figures],
    ranked: Mapping[int, Sequence[int]],
    own: Mapping[int, Sequence[int]],
) -> tuple[dict[int, list[int]], dict[int, Figures]]:
    """Return (the chosen phrases of each category; what they reached).

    The best phrase is taken, but a proposal only if it is significantly better than the vocabulary's own best. Then,
    best first, each that significantly raises the AP of those taken so far: any other would cost tokens for nothing.
    """
    chosen: dict[int, list[int]] = {}
    for id_, numbers in ranked.items():
        best, own_best = numbers[0], next(n for n in numbers if n in own[id_])
        chosen[id_] = [best if alone[best].surely_better(alone[own_best]) else own_best]
    reached = {id_: alone[numbers[0]] for id_, numbers in chosen.items()}
    rest = {id_: [n for n in numbers if n != chosen[id_][0]] for id_, numbers in ranked.items()}
    for step in range(max(map(len, rest.values()), default=0)):
        with_next = {id_: [*chosen[id_], more[step]] for id_, more in rest.items() if step < len(more)}
        for id_, figures in _together(judge, positions, with_next).items():
            if figures.surely_better(reached[id_]):
                chosen[id_], reached[id_] = with_next[id_], figures
    return chosen, reached

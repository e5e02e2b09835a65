"""What names per image save, said before a run: passes of both ways, and how much of the ground truth is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from labeler.errors import Refused
from labeler.labeling.names.of_field import NamesOfField
from labeler.labeling.names.of_run import NamesOfRun
from labeler.labeling.names.per_image import NamesSource
from labeler.labeling.resolve import Job
from labeler.labels.records import LABELED
from labeler.prompts import Narrower
from labeler.runs.plan import PlannedShard
from labeler.trial.sample import some_items
from labeler.truth.alignment import match_categories, match_images
from labeler.truth.ground_truth import read_ground_truth

_SHARDS, _EACH = 5, 20  # of an input whose texts are looked at
_MOST_SETS = 2_000  # of names that are packed to count passes


def describe_names(
    job: Job, source: NamesSource, plan: Sequence[PlannedShard], annotations: str | None
) -> Iterator[str]:
    """Yield lines of `label --dry-run`.

    Args:
        source: of the job.
        annotations: COCO or LVIS json, by which the recall ceiling is told; None for none.

    Raises:
        Refused: annotations of other images or categories, or beside a sidecar or column.
    """
    if isinstance(source, NamesOfRun):
        yield from _of_run(job, source)
        if annotations:
            yield _ceiling(job, source, annotations)
    elif isinstance(source, NamesOfField):
        if annotations:
            raise Refused(
                "--annotations goes with names of another run; with a sidecar or column, label a sample and evaluate it"
            )
        yield from _of_field(job, source, plan)


def _of_run(job: Job, source: NamesOfRun) -> Iterator[str]:
    names = source.load()
    sizes = np.diff(names.starts)
    images = len(names)
    rng = np.random.default_rng(0)
    looked_at = rng.permutation(images)[:_MOST_SETS].tolist()
    passes = _passes(job, [names.of_image(image) for image in looked_at])
    yield (
        f"names    {sizes.mean() if images else 0:.1f} of {len(source.category_ids):,} an image on the mean, none in "
        f"{int((sizes == 0).sum()):,} of {images:,} images of run {source.run_id}"
    )
    if names.failed:
        yield f"         {names.failed:,} images that it could not label are asked for all, if they can be read now"
    yield f"         {passes:.2f} passes per image on the mean with its names, {job.plan.passes:,} with all"


def _of_field(job: Job, source: NamesOfField, plan: Sequence[PlannedShard]) -> Iterator[str]:
    texts = [item.kept.get(source.field) for item in some_items(job.config, plan, shards=_SHARDS, each=_EACH)]
    read = [source.read(text) for text in texts if text is not None]
    rest = Counter(phrase for _, phrases in read for phrase in set(phrases))
    sets = [tuple(sorted(ids)) for ids, _ in read] + [None] * (len(texts) - len(read))
    yield (
        f"names    {np.mean([len(ids) for ids, _ in read]):.1f} of {len(set(source.category_ids.values())):,} an image "
        f"on the mean of {len(texts)} images; {len(texts) - len(read)} have no {source.field} and are asked for all"
    )
    yield f"         {_passes(job, sets):.2f} passes per image on the mean with them, {job.plan.passes:,} with all"
    if rest:
        top = ", ".join(phrase for phrase, _ in rest.most_common(10))
        yield f"         phrases that match no category: {len(rest)}, such as {top}"
        yield "         `labeler vocabulary from INPUT --field ... --vocabulary ...` counts them all"


def _passes(job: Job, sets: Sequence[tuple[int, ...] | None]) -> float:
    """On the mean over images that are asked for these."""
    family, plan = job.detector.family, job.plan
    assert isinstance(family, Narrower)  # resolve_names_per_image has refused others
    each = {ids: family.narrow(plan, ids).passes if ids else 0 for ids in set(sets) if ids is not None}
    return float(np.mean([plan.passes if ids is None else each[ids] for ids in sets])) if sets else 0.0


def _ceiling(job: Job, source: NamesOfRun, annotations: str) -> str:
    """Return the share of the ground truth's (image, category) pairs that are asked for, among the
    images of the run.
    """
    truth, snapshot = read_ground_truth(annotations), source.snapshot()
    categories = match_categories(job.vocabulary, truth, by_name=True, partial=True)
    images = match_images(snapshot, truth)
    names = source.load()
    asked, place = set[tuple[int, int]](), 0
    for unit, table in snapshot.units(("status",)):
        positions = images.rows.get(unit)
        for row, status in enumerate(table["status"].to_pylist()):
            labeled = status in LABELED
            image = -1 if positions is None else int(positions[row])
            if image >= 0:
                # What is not known is asked for.
                ids: Collection[int] = names.of_image(place) if labeled else categories.position_of
                asked |= {(image, categories.position_of[id_]) for id_ in ids if id_ in categories.position_of}
            place += labeled
    mine = set(categories.position_of.values())
    pairs = {
        (image, category)
        for image, category in zip(truth.image.tolist(), truth.category.tolist(), strict=True)
        if category in mine and images.present[image]
    }
    share = len(pairs & asked) / len(pairs) if pairs else 0.0
    return (
        f"ceiling  {share:.3f}: of {len(pairs):,} (image, category) pairs with objects in {truth.source}, "
        f"{len(pairs & asked):,} are asked for"
    )

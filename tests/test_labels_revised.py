"""Rows of a changed vocabulary are to the bit those of a run that makes all passes of its plan."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labeler import checkpoints
from labeler.config import DetectConfig, ModelConfig, PromptsConfig
from labeler.detectors.batched import BatchedDetector
from labeler.labeling.unit import UnitLabeler
from labeler.labels.detections import Detections
from labeler.labels.records import Row, rows_to_table
from labeler.labels.revised import CHANGED, CUT, Change
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.revision import revise
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.shards import Item
from labeler.training.validation import shapes_validation
from labeler.vocabulary import Vocabulary

MODEL = Path(__file__).parent.parent / "models" / "shapes"
CHUNK, NAMES = 20, 40  # names in a chunk, and in all


@cache
def items() -> list[Item]:
    made = []
    for index, image in enumerate(shapes_validation(4242, 4).images):
        buffer = io.BytesIO()
        Image.fromarray(image.pixels).save(buffer, "PNG")
        made.append(Item(f"{index}.png", index, "u", None, None, buffer.getvalue(), None, {}))
    return made


@cache
def checkpoint() -> checkpoints.DetectorCheckpoint:
    return checkpoints.resolve(MODEL)


@cache
def label(plan: Prompts, only: tuple[int, ...] | None = None, **detect: Any) -> list[Row]:
    detector = BatchedDetector(
        checkpoint(), plan, model=ModelConfig(device="cpu"), detect=DetectConfig(**detect), threads=1, only=only
    )
    assert detector.passes == (plan.passes if only is None else len(only))
    rows, work = UnitLabeler(detector, decode_threads=0).label("000000", items())
    assert work.passes == detector.passes * len(items())
    return rows


def changed(names: list[str]) -> list[dict[str, Any]]:
    """Two names are gone, one has other words, three are new, and all ids are others, though in the same order."""
    kept = [name for name in names if name not in ("red circle", "blue square", "green star")]
    after = [*kept, "star green", "circle", "square", "ring"]
    return [{"id": 7 * at + 3, "name": name} for at, name in enumerate(after)]


@pytest.mark.parametrize("assignment", ["argmax", pytest.param("flattened", marks=pytest.mark.slow)])
def test_kept_rows_and_new_passes_are_to_the_bit_the_rows_of_all_passes(assignment: str) -> None:
    names = [category.name for category in shapes_validation(4242, 1).vocabulary.categories][:NAMES]
    tokenizer, after = Tokenizer.load(MODEL), Vocabulary.load(changed(names))
    old = pack(Vocabulary.load(names), tokenizer, max_categories=CHUNK)
    revision = revise(old, after, tokenizer, PromptsConfig(max_categories=CHUNK))
    plan = revision.plan
    assert isinstance(plan, Prompts)
    assert (old.passes, revision.new_passes, plan.passes) == (2, (2,), 3)
    assert revision.exact
    change = Change(revision.category_ids, revision.passes, 0.7, 900)
    settings: dict[str, Any] = {"assignment": assignment, "max_detections": 900}
    earlier, new, whole = label(old, **settings), label(plan, revision.new_passes, **settings), label(plan, **settings)
    rows = [change.apply(*pair) for pair in zip(new, earlier, strict=True)]
    assert rows_to_table(rows).equals(rows_to_table(whole))
    found = Detections.concat([row.detections for row in rows])
    assert {0, 1, 2} == set(found.chunks.tolist())
    assert not set(found.category_ids.tolist()) - set(after.by_id)
    gone = Detections.concat([row.detections for row in earlier]).category_ids
    assert np.isin(gone, [names.index("red circle") + 1, names.index("green star") + 1]).any()


def test_images_whose_boxes_the_cap_had_cut_are_the_only_others_and_say_so() -> None:
    names = [category.name for category in shapes_validation(4242, 1).vocabulary.categories][:NAMES]
    tokenizer = Tokenizer.load(MODEL)
    old = pack(Vocabulary.load(names), tokenizer, max_categories=CHUNK)
    revision = revise(old, Vocabulary.load(names[CHUNK // 2 :]), tokenizer, PromptsConfig(max_categories=CHUNK))
    plan = revision.plan
    assert isinstance(plan, Prompts)
    assert revision.new_passes == ()
    settings: dict[str, Any] = {"assignment": "argmax", "max_detections": 900}
    said = differing = 0
    for cap in range(1, 60):
        change = Change(revision.category_ids, revision.passes, 0.7, cap)
        for earlier, fresh in zip(label(old, **settings), label(plan, **settings), strict=True):
            stored = replace(earlier, detections=earlier.detections.top(cap))
            row = change.apply(replace(earlier, detections=Detections.empty()), stored)
            expected = replace(fresh, detections=fresh.detections.top(cap))
            equal = rows_to_table([replace(row, status="empty", error=None)]).equals(
                rows_to_table([replace(expected, status="empty", error=None)])
            )
            assert equal or row.error == CUT
            said += row.error == CUT
            differing += not equal
    assert 0 < differing <= said < 59 * len(items())


def row(*found: tuple[float, int], **values: Any) -> Row:
    detections = Detections.of(
        [[20 * place, 0, 20 * place + 9, 9] for place in range(len(found))],
        [score for score, _ in found],
        [id_ for _, id_ in found],
    )
    plain: dict[str, Any] = {"digest": "d", "status": "labeled" if found else "empty", "detections": detections}
    return Row("a", "000000", 0, "u", **{**plain, **values})


CAPPED = Change({1: 1, 2: 3}, {0: 0}, 0.7, 3)


@pytest.mark.parametrize(
    ("new", "earlier", "change", "cut"),
    [
        (row(), row((0.9, 1), (0.8, 5)), CAPPED, False),  # fewer than the cap: nothing was cut
        (row(), row((0.9, 1), (0.8, 5), (0.7, 2)), CAPPED, True),  # a box less, and what was cut would follow
        (row((0.75, 4)), row((0.9, 1), (0.8, 5), (0.7, 2)), CAPPED, True),  # the last may tie with what was cut
        (row((0.75, 4), (0.72, 4)), row((0.9, 1), (0.8, 5), (0.7, 2)), CAPPED, False),  # all is above what was cut
        (row(), row((0.9, 1), (0.8, 1), (0.7, 2)), CAPPED, False),  # nothing left the row
        (row(), row((0.9, 1), (0.8, 1), (0.7, 2)), replace(CAPPED, category_ids={1: 3, 2: 1}), True),  # other ties
        (row(), row((0.9, 1), (0.8, 5), (0.7, 2)), replace(CAPPED, max_detections=0), False),
        (row(), row((0.9, 1), error=CUT), CAPPED, True),  # of an earlier revision
    ],
)
def test_a_row_says_when_cut_boxes_may_be_missing(new: Row, earlier: Row, change: Change, cut: bool) -> None:
    assert change.apply(new, earlier).error == (CUT if cut else None)


def test_an_image_that_fails_now_or_has_other_bytes_keeps_no_half_of_its_boxes() -> None:
    failed = row(status="read_error", error="gone")
    assert CAPPED.apply(failed, row((0.9, 1))) == failed
    other = CAPPED.apply(row((0.9, 4), digest="e"), row((0.9, 1)))
    assert (other.status, other.error, len(other.detections)) == ("read_error", CHANGED, 0)
    left = CAPPED.apply(row(), row((0.9, 5)))
    assert (left.status, len(left.detections)) == ("empty", 0)

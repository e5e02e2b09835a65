"""Images that are asked for some names alone, against detectors whose vocabulary is exactly those names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from labeler.checkpoints import resolve
from labeler.config import DetectConfig, ModelConfig, PromptsConfig
from labeler.detectors import narrowed
from labeler.detectors.batched import BatchedDetector
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.vocabulary import Category, Vocabulary
from tests import closed_sets
from tests.clip_files import write_clip_files
from tests.detector_parts import VOCABULARY, photo
from tests.owl_model import owl_checkpoint
from tests.sam3_model import redraw, sam3_checkpoint, sam3_config

SETS = ((1, 12), (3, 7, 40, 90), (1, 12), (1, 12))


def detector_of(folder: Path, vocabulary: Vocabulary = VOCABULARY, **more: Any) -> BatchedDetector:
    checkpoint = resolve(folder)
    model = ModelConfig(name=str(folder), device="cpu")
    prompts = PromptsConfig(max_tokens=12) if checkpoint.family.name == "grounding-dino" else PromptsConfig()
    plan = checkpoint.family.planner(folder, model).plan(vocabulary, prompts)
    pairs = more.pop("pairs", 1)
    detect = DetectConfig(score_floor=0.0, max_detections=0, nms_iou=1.0, pairs_per_batch=pairs)
    return BatchedDetector(checkpoint, plan, model=model, detect=detect, threads=1, **more)


def only(ids: Sequence[int], vocabulary: Vocabulary = VOCABULARY) -> Vocabulary:
    return replace(vocabulary, categories=tuple(c for c in vocabulary.categories if c.id in ids or c.negative))


@pytest.fixture(scope="module")
def of_names(mm_folder: Path) -> dict[tuple[int, ...], BatchedDetector]:
    """Detectors of each set alone."""
    return {ids: detector_of(mm_folder, only(ids)) for ids in SETS}


def asked(detector: BatchedDetector, images: Sequence[Any], sets: Sequence[Any]) -> list[Detections]:
    ready = [replace(detector.prepare(image), asked=ids) for image, ids in zip(images, sets, strict=True)]
    found = detector.detect_prepared(ready)
    assert all(isinstance(each, Detections) for each in found), found
    return found  # type: ignore[return-value]


def assert_equal(found: Detections, expected: Detections, *, exactly: bool) -> None:
    found, expected = found.sorted(), expected.sorted()
    assert len(found) == len(expected) > 0
    if exactly:
        assert np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.category_ids, expected.category_ids)
        assert np.array_equal(found.chunks, expected.chunks)
    else:
        np.testing.assert_allclose(found.scores, expected.scores, atol=2e-5)


def test_chunks_of_their_own_equal_a_detector_of_those_names_to_the_bit(
    mm_folder: Path, of_names: dict[tuple[int, ...], BatchedDetector]
) -> None:
    images = [photo(seed) for seed in range(len(SETS))]
    detector = detector_of(mm_folder, names_per_image=True)
    for image, ids, found in zip(images, SETS, asked(detector, images, SETS), strict=True):
        (expected,) = of_names[ids].detect([image])
        assert_equal(found, expected, exactly=True)
    (whole,) = asked(detector, images[:1], [None])
    assert_equal(whole, detector.detect(images[:1])[0], exactly=True)
    assert len(set(whole.category_ids.tolist())) > 2


def test_images_of_one_shape_and_equal_names_share_a_forward_and_no_others(
    mm_folder: Path, of_names: dict[tuple[int, ...], BatchedDetector]
) -> None:
    detector = detector_of(mm_folder, names_per_image=True, pairs=8)
    images = [photo(seed, *((180, 80) if seed == 3 else (90, 120))) for seed in range(len(SETS))]
    ready = [replace(detector.prepare(image), asked=ids) for image, ids in zip(images, SETS, strict=True)]
    begun = list(detector.begin(ready))
    assert sorted(places for places, _ in begun) == [[0, 2], [1], [3]]
    for places, wait in begun:
        for place, found in zip(places, wait(), strict=True):
            (expected,) = of_names[SETS[place]].detect([images[place]])
            assert_equal(found, expected, exactly=False)
    assert [detector.passes_of(image) for image in ready] == [1, 3, 1, 1]
    assert [detector.room_for(image) for image in ready] == [8, 2, 8, 8]


def test_prompts_are_encoded_once_for_a_set_and_the_sets_used_last_are_kept(
    mm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrowed, "_SETS", 2)
    detector = detector_of(mm_folder, names_per_image=True)
    encoded: list[Any] = []
    encode = detector.network.encode_names  # type: ignore[attr-defined]
    monkeypatch.setattr(detector.network, "encode_names", lambda plan: encoded.append(plan) or encode(plan))
    sets = [(1,), (3,), (1,), (7,), (1,), (3,)]
    for ids, count in zip(sets, (1, 2, 2, 3, 3, 4), strict=True):  # (3,) was the oldest when (7,) came
        asked(detector, [photo(0)], [ids])
        assert len(encoded) == count


@pytest.mark.parametrize("kind", ["owl-vit", "owlv2"])
def test_owl_compares_with_the_phrases_of_the_image_alone(tmp_path: Path, kind: Any) -> None:
    names = ("cat", "dog", "traffic light", "bus")
    vocabulary = Vocabulary("four", tuple(Category(n, name, (name,)) for n, name in enumerate(names, 1)))
    folder = owl_checkpoint(tmp_path / "owl", kind)
    detector = detector_of(folder, vocabulary, names_per_image=True)
    images = [photo(0), photo(1)]
    for image, ids, found in zip(images, ((2, 4), (3,)), asked(detector, images, ((2, 4), (3,))), strict=True):
        assert set(found.category_ids.tolist()) <= set(ids)
        (expected,) = detector_of(folder, only(ids, vocabulary)).detect([image])
        assert_equal(found, expected, exactly=False)
    assert detector.passes_of(replace(detector.prepare(images[0]), asked=(2, 4))) == 1


def test_sam_3_runs_a_pass_for_each_phrase_of_the_image(tmp_path: Path) -> None:
    names = ("cat", "dog", "traffic light")
    vocabulary = Vocabulary("three", tuple(Category(n, name, (name,)) for n, name in enumerate(names, 1)))
    config = sam3_config()
    config.text_config.vocab_size = write_clip_files(tmp_path, ["cat", "dog", "traffic", "light"])
    model = transformers.Sam3Model(config)
    redraw(model)
    with torch.no_grad():
        model.detr_decoder.presence_head.layer3.bias.fill_(4)
    sam3_checkpoint(tmp_path, model)
    detector = detector_of(tmp_path, vocabulary, names_per_image=True)
    (found,) = asked(detector, [photo(0)], [(2, 3)])
    (expected,) = detector_of(tmp_path, only((2, 3), vocabulary)).detect([photo(0)])
    assert_equal(found, expected, exactly=False)
    ready = detector.prepare(photo(0))
    assert [detector.passes_of(replace(ready, asked=ids)) for ids in ((2, 3), (1,), None)] == [2, 1, 3]


def test_a_detector_with_labels_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = closed_sets.make_checkpoint(tmp_path / "closed", "rt_detr")
    family = resolve(folder).family
    vocabulary = family.planner(folder, ModelConfig()).own_vocabulary()  # type: ignore[attr-defined]
    with pytest.raises(Refused, match=r"prompts\.from: the family closed-set cannot be asked for some"):
        detector_of(folder, vocabulary, names_per_image=True)

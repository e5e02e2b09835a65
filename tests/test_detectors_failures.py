"""What goes wrong with a detector: one image at a time, the memory, the settings, the checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from importlib import metadata

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from labeler.detectors import DetectError, GroundingDino
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.prompts.grounding_dino import pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary
from tests.detector_parts import WORDS, assert_same, photo, poison, three_chunks


def black(seed: int) -> np.ndarray:
    image = photo(seed)
    image[:20, :20] = 0
    return image


def test_an_image_with_scores_that_are_not_finite_fails_alone(mm_folder):
    detector = GroundingDino(mm_folder, three_chunks(mm_folder), threads=1, pairs_per_batch=100)
    batch = [detector.prepare(image) for image in (photo(0), black(1), photo(2))]
    before = detector.detect_prepared(batch)
    poison(detector)
    first, bad, last = detector.detect_prepared(batch)
    assert isinstance(bad, DetectError)
    assert "NaN or infinite" in str(bad)
    assert_same(first, before[0])
    assert_same(last, before[2])
    with pytest.raises(DetectError):
        detector.detect([black(1)])


def test_an_image_that_overflows_in_half_precision_is_done_in_float32(mm_folder):
    prompts = three_chunks(mm_folder)
    exact = GroundingDino(mm_folder, prompts, threads=1).detect([black(1)])[0]
    detector = GroundingDino(mm_folder, prompts, threads=1, dtype="bfloat16", pairs_per_batch=100)
    poison(detector, only_in_half=True)
    assert_same(detector.detect([photo(0), black(1)])[1], exact)
    assert detector.dtype == "bfloat16"


def test_memory_that_runs_out_in_float32_costs_one_image(mm_folder, monkeypatch):
    """The retry in float32 takes one pair at a time; the number that fits was found in half precision."""
    prompts = three_chunks(mm_folder)
    exact = GroundingDino(mm_folder, prompts, threads=1).detect([black(1)])[0]
    detector = GroundingDino(mm_folder, prompts, threads=1, dtype="bfloat16", engine="fast", pairs_per_batch=12)
    poison(detector, only_in_half=True)
    detect, memory = detector.network.detect, 1

    def short(image, text):
        if detector.network.half is None and len(image.features) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return detect(image, text)

    monkeypatch.setattr(detector.network, "detect", short)
    batch = [detector.prepare(image) for image in (photo(0), black(1), photo(2))]
    found = detector.detect_prepared(batch)
    assert_same(found[1], exact)
    memory = 0
    first, lost, last = detector.detect_prepared(batch)
    assert isinstance(lost, DetectError)
    assert "ran out in float32" in str(lost)
    assert_same(first, found[0])
    assert_same(last, found[2])
    assert (detector.pairs_per_batch, detector.network.half) == (12, torch.bfloat16)


def test_half_precision_gives_detections_near_the_exact_ones(mm_folder):
    exact = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0, nms_iou=1)
    half = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0, nms_iou=1, dtype="bfloat16")
    (a,), (b,) = exact.detect([photo(0)]), half.detect([photo(0)])
    assert a.boxes.dtype == b.boxes.dtype == np.float32
    assert abs(len(a) - len(b)) <= 2
    assert abs(a.scores.mean() - b.scores.mean()) < 0.05


def test_an_image_too_narrow_for_the_model_is_a_failure_with_its_reason(mm_folder):
    detector = GroundingDino(mm_folder, ["cat"], threads=1, image_size=(64, 72))  # 1 x 72 pixels: 19 positions
    narrow, fine = detector.detect_prepared([detector.prepare(photo(0, 6, 4000)), detector.prepare(photo(0))])
    assert isinstance(narrow, DetectError)
    assert "too narrow" in str(narrow)
    assert isinstance(fine, Detections)


@pytest.fixture
def logged():
    """Messages of the detector's log. (pytest's own capture is switched off for this project.)"""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("labeler.detectors.batched")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


@pytest.fixture
def little_memory(monkeypatch):
    """Make a detector run out of memory above that many pairs per forward pass."""

    def limit(detector, pairs):
        forward = detector.network.forward.detect

        def detect(image, text):
            if len(image.features) > pairs:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(image, text)

        monkeypatch.setattr(detector.network.forward, "detect", detect)

    return limit


def test_memory_running_out_halves_the_batch_and_goes_on(mm_folder, logged, little_memory):
    prompts = three_chunks(mm_folder)
    detector = GroundingDino(mm_folder, prompts, threads=1, pairs_per_batch=8)
    little_memory(detector, 2)
    images = [photo(seed) for seed in range(4)]
    exact = GroundingDino(mm_folder, prompts, threads=1)
    for found, expected in zip(detector.detect(images), exact.detect(images), strict=True):
        assert_same(found, expected)
    assert detector.pairs_per_batch == 2
    assert [message.split(": ")[1] for message in logged] == [
        f"{pairs} (image, chunk) pairs in a forward pass from now on" for pairs in (4, 2)
    ]
    assert detector.description["memory"] == "ran out: 2 (image, chunk) pairs in a forward pass from now on"
    assert "memory" not in exact.description


def test_memory_too_small_for_one_pair_is_an_error(mm_folder, little_memory):
    detector = GroundingDino(mm_folder, ["cat"], threads=1, pairs_per_batch=2)
    little_memory(detector, 0)
    with pytest.raises(torch.OutOfMemoryError):
        detector.detect([photo(0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_floor": 1.5}, "score_floor"),
        ({"max_detections": -1}, "max_detections"),
        ({"nms_iou": -0.1}, "nms_iou"),
        ({"pairs_per_batch": 0}, "pairs_per_batch"),
        ({"assignment": "best"}, "assignment"),
        ({"score": "median"}, "score"),
        ({"dtype": "int8"}, "dtype"),
        ({"device": "cuda:77"}, "device"),
        ({"device": "gpu"}, "device"),
        ({"image_size": (0, 100)}, "image_size"),
        ({"revision": "main"}, "revision"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(mm_folder, settings, message):
    with pytest.raises(Refused, match=message) as refused:
        GroundingDino(mm_folder, ["cat"], **settings)
    assert "\n" not in str(refused.value)


def damaged(folder, tmp_path, *, without: str | None = None, **config):
    copy = shutil.copytree(folder, tmp_path / "damaged")
    weights = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in weights.items() if without is None or without not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(written | config))
    return copy


def test_weights_that_are_missing_are_refused_and_not_left_random(mm_folder, tmp_path):
    with pytest.raises(Refused, match=r"lacks 2 of the model's weights \(model\.encoder\.layers\.0"):
        GroundingDino(damaged(mm_folder, tmp_path, without="layers.0.fusion_layer.attn.out_text_proj"), ["cat"])


@pytest.mark.parametrize("config", [{"encoder_ffn_dim": 512}, {"d_model": 48}, {"activation_function": "nonsense"}])
def test_a_config_that_does_not_fit_the_weights_is_refused(mm_folder, tmp_path, config):
    with pytest.raises(Refused, match=r"cannot be loaded") as refused:
        GroundingDino(damaged(mm_folder, tmp_path, **config), ["cat"])
    assert "\n" not in str(refused.value)


def test_a_model_without_query_selection_is_refused(mm_folder, tmp_path):
    with pytest.raises(Refused, match="two-stage"):
        GroundingDino(damaged(mm_folder, tmp_path, embedding_init_target=False), ["cat"])


def test_prompts_longer_than_the_model_reads_are_refused(tmp_path):
    folder = create_checkpoint(tmp_path / "model", words=WORDS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_text_len": 6}))
    prompts = pack(Vocabulary.load(["red fox", "house", "cat"]), Tokenizer.load(folder))
    with pytest.raises(Refused, match="longer than the 6 tokens"):
        GroundingDino(folder, prompts)
    assert len(GroundingDino(folder, ["red fox", "house", "cat"]).prompts.chunks) == 2  # packed to fit


@pytest.mark.parametrize("version", ["5.22.0", "4.57.1", "5.0.0rc1"])
def test_a_transformers_that_computes_positions_wrongly_is_refused(mm_folder, monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda package: version)
    with pytest.raises(Refused, match=rf"transformers {version} is installed, .* pip install 'transformers>=5.23'"):
        GroundingDino(mm_folder, ["cat"], threads=1)

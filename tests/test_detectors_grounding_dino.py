from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from labeler import checkpoints
from labeler.detections import Detections
from labeler.detectors import DetectError, GroundingDino
from labeler.detectors.scoring import Scorer
from labeler.detectors.scratch import Size, create_checkpoint
from labeler.errors import Refused
from labeler.prompts import Prompts, pack
from labeler.tokenizer import Tokenizer
from labeler.vocabulary import Category, Vocabulary

WORDS = ["cat dog kitty fox red traffic light house bird old car tree sea small boat shadow"]
VOCABULARY = Vocabulary(
    "mixed",
    (
        Category(3, "cat", ("cat", "small kitty")),
        Category(1, "traffic light", ("traffic light",)),
        Category(12, "house", ("house",)),
        Category(7, "red fox", ("red fox", "fox")),
        Category(90, "boat", ("small boat",)),
        Category(40, "old car", ("old car", "car")),
        Category(50, "shadow", ("shadow",), negative=True),
    ),
)


@pytest.fixture(scope="module", params=["original", "mm"])
def folder(request, tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp(request.param), words=WORDS, kind=request.param, redraw=True)


@pytest.fixture(scope="module")
def mm_folder(tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp("mm"), words=WORDS, redraw=True)


def photo(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 8, 3)).repeat(height // 6, 0).repeat(width // 8, 1)
    return np.clip(coarse + generator.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def three_chunks(folder) -> Prompts:
    prompts = pack(VOCABULARY, Tokenizer.load(folder), max_categories=2)
    assert len(prompts.chunks) == 3
    return prompts


def assert_same(got: Detections, expected: Detections, scores: float = 1e-4, pixels: float = 0.02):
    assert got.category_ids.tolist() == expected.category_ids.tolist()
    assert got.chunks.tolist() == expected.chunks.tolist()
    np.testing.assert_allclose(got.scores, expected.scores, atol=scores)
    np.testing.assert_allclose(got.boxes, expected.boxes, atol=pixels)


# ---- the whole way, against transformers' forward and the plainest arithmetic


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def plain_scores(logits, chunk, score) -> dict[int, float]:
    """One query's category scores: by position, mean or max per phrase, best phrase per category."""
    best: dict[int, float] = {}
    for phrase in chunk.phrases:
        p = [sigmoid(logits[at]) for at in phrase.positions]
        value = max(p) if score == "max" else sum(p) / len(p)
        best[phrase.category_id] = max(best.get(phrase.category_id, 0), value)
    return best


def plain_pairs(logits, boxes, chunk, score, assignment, negative) -> list[tuple[float, int, list[float]]]:
    found = []
    for query, box in zip(logits, boxes, strict=True):
        scores = plain_scores(query, chunk, score)
        rival = max((scores[category] for category in scores if category in negative), default=0)
        real = {category: value for category, value in scores.items() if category not in negative and value >= rival}
        if assignment == "argmax" and real:
            category = max(real, key=real.__getitem__)
            real = {category: real[category]}
        found += [(value, category, box) for category, value in real.items()]
    return sorted(found, key=lambda pair: -pair[0])


def plain_detections(forwards, image, prompts, *, score, assignment, floor, nms_iou, most, per_chunk) -> list[tuple]:
    height, width = image.shape[:2]
    found = []
    for chunk, (logits, boxes) in zip(prompts.chunks, forwards, strict=True):
        pairs = plain_pairs(logits, boxes, chunk, score, assignment, prompts.negative_ids)
        for value, category, (cx, cy, w, h) in pairs[:per_chunk]:
            x = np.clip([(cx - w / 2) * width, (cx + w / 2) * width], 0, width)
            y = np.clip([(cy - h / 2) * height, (cy + h / 2) * height], 0, height)
            if value >= floor and x[1] > x[0] and y[1] > y[0]:
                found.append((value, category, [x[0], y[0], x[1], y[1]], chunk.index))
    found.sort(key=lambda row: -row[0])
    kept: list[tuple] = []
    for row in found:
        if all(row[1] != other[1] or overlap(row[2], other[2]) <= nms_iou for other in kept):
            kept.append(row)
    return kept[: most or None]


def overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.fixture(scope="module")
def monolithic(folder):
    """(image, [(logits, boxes) of each chunk]) from transformers' own processor and forward, for two images."""
    model = getattr(transformers, checkpoints.resolve(folder).architecture).from_pretrained(folder).eval()
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 224})
    results = []
    for image in (photo(0), photo(1, 180, 80)):
        pixel_values = torch.from_numpy(np.array(processor(image)["pixel_values"]))
        forwards = []
        for chunk in three_chunks(folder).chunks:
            input_ids = torch.tensor([chunk.input_ids])
            with torch.no_grad():
                out = model(pixel_values=pixel_values, input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
            forwards.append((out.logits[0].double().numpy(), out.pred_boxes[0].tolist()))
        results.append((image, forwards))
    return results


@pytest.mark.parametrize("assignment", ["argmax", "flattened"])
@pytest.mark.parametrize("score", ["mean", "max"])
@pytest.mark.parametrize("most", [0, 6])
def test_detections_equal_those_computed_plainly_from_the_monolithic_forward(
    folder, monolithic, assignment, score, most
):
    prompts = three_chunks(folder)
    settings = {"score": score, "assignment": assignment, "nms_iou": 0.4}
    limits = {"score_floor": 0.1, "max_detections": most}
    detector = GroundingDino(folder, prompts, threads=1, pairs_per_batch=2, **limits, **settings)
    per_chunk = 20 if most or assignment == "argmax" else None
    for image, forwards in monolithic:
        (found,) = detector.detect([image])
        expected = plain_detections(forwards, image, prompts, floor=0.1, most=most, per_chunk=per_chunk, **settings)
        assert len(found) == len(expected) > 3
        values, categories, boxes, chunks = zip(*expected, strict=True)
        assert_same(found, Detections.of(boxes, values, categories, chunks))


def test_the_negative_matters_in_the_test_above(mm_folder):
    without = Vocabulary("same", VOCABULARY.categories[:-1])
    found = [
        GroundingDino(mm_folder, names, score_floor=0.1, threads=1, nms_iou=1).detect([photo(0)])[0]
        for names in (VOCABULARY, without)
    ]
    assert 50 not in found[0].category_ids
    assert len(found[0]) < len(found[1])


# ---- batches


def test_no_images_give_no_detections(mm_folder):
    assert GroundingDino(mm_folder, ["cat"], threads=1).detect([]) == []


def test_ten_lines_are_enough(mm_folder):
    detector = GroundingDino(mm_folder, "coco")
    (found,) = detector.detect([photo(0)])
    assert isinstance(found, Detections)
    assert set(found.category_ids.tolist()) <= set(range(1, 91))
    assert (found.scores >= 0.05).all()
    assert (np.diff(found.scores) <= 0).all()


def test_an_image_is_the_same_alone_and_in_any_batch(mm_folder):
    images = [photo(0), photo(1, 180, 80), photo(2), photo(4), photo(5, 180, 80)]
    detector = GroundingDino(mm_folder, three_chunks(mm_folder), threads=1, nms_iou=1)
    alone = [detector.detect([image])[0] for image in images]
    for pairs_per_batch in (1, 2, 7, 100):
        detector.pairs_per_batch = pairs_per_batch
        for found, expected in zip(detector.detect(images), alone, strict=True):
            assert_same(found, expected)


def test_boxes_are_in_pixels_of_the_image_that_was_given_and_inside_it(mm_folder):
    detector = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0)
    small, large = photo(0), photo(0).repeat(3, 0).repeat(3, 1)
    (found,) = detector.detect([large])
    assert found.boxes.max() > small.shape[1]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [360, 270, 360, 270]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_the_floor_the_cap_and_the_size_are_obeyed(mm_folder):
    everything = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0, nms_iou=1).detect([photo(0)])[0]
    middle = float(np.median(everything.scores))
    floored = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=middle, nms_iou=1)
    assert len(floored.detect([photo(0)])[0]) == (everything.scores >= middle).sum()
    capped = GroundingDino(mm_folder, ["cat", "house"], threads=1, score_floor=0, nms_iou=1, max_detections=3)
    assert_same(capped.detect([photo(0)])[0], everything[:3])
    resized = GroundingDino(mm_folder, ["cat"], threads=1, image_size=(96, 100))
    assert resized.prepare(photo(0)).pixels.shape == (75, 100, 3)


def test_an_image_without_detections_is_empty_not_missing(mm_folder):
    assert len(GroundingDino(mm_folder, ["cat"], threads=1, score_floor=1).detect([photo(0)])[0]) == 0


# ---- failures


def poison(detector: GroundingDino, *, only_in_half: bool = False) -> None:
    """Make the model fail on images whose first pixel is black, as an overflow would: NaN from the backbone on."""

    def hook(module, arguments):
        pixel_values, mask = arguments
        black = (pixel_values[:, :, 0, 0] < -1.7).all(1)
        if only_in_half and not torch.is_autocast_enabled("cpu"):
            return None
        return pixel_values.masked_fill(black[:, None, None, None], float("nan")), mask

    detector._forward.model.backbone.conv_encoder.register_forward_pre_hook(hook)


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
    assert "not finite" in str(bad)
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
    log = logging.getLogger("labeler.detectors.grounding_dino")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


@pytest.fixture
def little_memory(monkeypatch):
    """Make a detector run out of memory above so many pairs in a forward."""

    def limit(detector, pairs):
        forward = detector._forward.detect

        def detect(image, text):
            if len(image.features) > pairs:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(image, text)

        monkeypatch.setattr(detector._forward, "detect", detect)

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
        f"{pairs} (image, chunk) pairs in a forward from now on" for pairs in (4, 2)
    ]
    assert detector.description["memory"] == "ran out: 2 (image, chunk) pairs in a forward from now on"
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
        ({"image_size": (0, 10)}, "image_size"),
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


# ---- scores that a model from scratch does not happen to have


def scorer_of_one_chunk(folder, **settings) -> tuple[Scorer, Prompts]:
    prompts = pack(Vocabulary.load(["cat", "red fox"]), Tokenizer.load(folder))
    width = len(prompts.chunks[0].input_ids)
    choices = {"score": "mean", "assignment": "argmax", "candidates": 0} | settings
    return Scorer(prompts, width, torch.device("cpu"), **choices), prompts


@pytest.mark.parametrize("value", [float("inf"), float("nan"), float("-inf")])
@pytest.mark.parametrize("assignment", ["argmax", "flattened"])
def test_one_token_logit_that_is_not_finite_spoils_its_pair_and_no_other(mm_folder, value, assignment):
    score, prompts = scorer_of_one_chunk(mm_folder, assignment=assignment)
    logits = torch.zeros(2, 3, len(prompts.chunks[0].input_ids))
    logits[1, 2, 3] = value
    mask = torch.ones(2, logits.shape[-1], dtype=torch.bool)
    rows = score(logits, torch.full((2, 3, 4), 0.5), mask, torch.tensor([0, 0]))
    assert rows[0].isfinite().all()
    assert rows[1, :, 4].isnan().all()


def test_minus_infinity_at_padding_spoils_nothing(mm_folder):
    score, prompts = scorer_of_one_chunk(mm_folder)
    logits = torch.zeros(1, 3, len(prompts.chunks[0].input_ids))
    mask = torch.ones(1, logits.shape[-1], dtype=torch.bool)
    logits[..., -1], mask[..., -1] = float("-inf"), False
    assert score(logits, torch.full((1, 3, 4), 0.5), mask, torch.tensor([0])).isfinite().all()


def test_boxes_without_area_inside_the_image_are_left_out(mm_folder):
    score, _ = scorer_of_one_chunk(mm_folder)
    boxes = [[0.5, 0.5, 0.2, 0.2], [1.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0, 0.2], [0.5, -0.1, 0.5, 0.2]]
    rows = np.array([[*box, 0.9, 1] for box in boxes], np.float32)
    found = score.detections(rows, 0, floor=0.1, height=100, width=200)
    np.testing.assert_allclose(found.boxes, [[80, 40, 120, 60]], atol=1e-4)
    assert found.category_ids.tolist() == [2]


def test_a_tie_between_a_category_and_a_negative_goes_to_the_category(mm_folder):
    vocabulary = Vocabulary("tie", (Category(1, "cat", ("cat",), negative=True), Category(2, "fox", ("fox",))))
    prompts = pack(vocabulary, Tokenizer.load(mm_folder))
    width = len(prompts.chunks[0].input_ids)
    logits, mask = torch.zeros(1, 1, width), torch.ones(1, width, dtype=torch.bool)
    for assignment in ("argmax", "flattened"):
        score = Scorer(prompts, width, torch.device("cpu"), score="mean", assignment=assignment, candidates=1)
        rows = score(logits, torch.full((1, 1, 4), 0.5), mask, torch.tensor([0]))
        assert score.detections(rows[0].numpy(), 0, floor=0, height=9, width=9).category_ids.tolist() == [2]


# ---- the rest


def test_torch_and_transformers_are_imported_on_first_use_only():
    code = (
        "import sys, labeler.detectors as d; assert d.Prepared; assert 'torch' not in sys.modules;"
        "assert 'transformers' not in sys.modules; d.GroundingDino; assert 'torch' in sys.modules;"
        "assert 'ray' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_threads_asked_for_are_the_threads_used(mm_folder):
    before = torch.get_num_threads()
    try:
        GroundingDino(mm_folder, ["cat"], threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_is_made_the_same_from_the_same_seed(tmp_path):
    size = Size(queries=5, text_layers=1)
    made = [
        checkpoints.resolve(create_checkpoint(tmp_path / name, words=WORDS, size=size, seed=seed, redraw=redraw)).digest
        for name, seed, redraw in [("a", 1, True), ("b", 1, True), ("c", 2, True), ("d", 1, False), ("e", 1, False)]
    ]
    assert made[0] == made[1]
    assert made[3] == made[4]
    assert len(set(made)) == 3


def test_making_a_checkpoint_leaves_the_random_numbers_of_others_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    create_checkpoint(tmp_path, words=WORDS, size=Size(text_layers=1), redraw=True)
    assert torch.equal(torch.rand(3), expected)


def test_a_vocabulary_file_can_be_brought_along(tmp_path):
    first = create_checkpoint(tmp_path / "first", words=WORDS, size=Size(text_layers=1))
    second = create_checkpoint(tmp_path / "second", vocab_file=first / "vocab.txt", size=Size(text_layers=1))
    assert len(GroundingDino(second, ["red fox"], threads=1).prompts.chunks[0].input_ids) == 5

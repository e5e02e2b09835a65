"""From logits to detections: equal to the plainest arithmetic on the transformers forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scoring import phrase_table, score_phrases
from labeler.detectors.grounding_dino.scratch import create_checkpoint
from labeler.detectors.scoring import Scorer
from labeler.labels.detections import Detections
from labeler.prompts import ImageRule
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Category, Vocabulary
from tests.detector_parts import VOCABULARY, WORDS, assert_same, photo, three_chunks


@pytest.fixture(scope="module", params=["original", "mm"])
def folder(request, tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp(request.param), words=WORDS, kind=request.param, redraw=True)


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


# ---- scores that a model from scratch does not happen to have


class OfLogits:
    """From token logits of a forward pass to candidates."""

    def __init__(self, prompts: Prompts, width: int, *, assignment: str = "argmax", candidates: int = 0) -> None:
        self.table = phrase_table(prompts, width, torch.device("cpu"), score="mean")
        self.phrases = max(len(chunk.phrases) for chunk in prompts.chunks)
        self.scorer = Scorer(prompts, torch.device("cpu"), assignment=assignment, candidates=candidates)

    def __call__(self, logits, boxes, token_mask, chunks) -> torch.Tensor:
        return self.scorer(score_phrases(logits, boxes, token_mask, self.table[chunks], self.phrases), chunks)


def scorer_of_one_chunk(folder, **settings) -> tuple[OfLogits, Prompts]:
    prompts = pack(Vocabulary.load(["cat", "red fox"]), Tokenizer.load(folder))
    return OfLogits(prompts, len(prompts.chunks[0].input_ids), **settings), prompts


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
    found = score.scorer.detections(rows, 0, floor=0.1, height=100, width=200)
    np.testing.assert_allclose(found.boxes, [[80, 40, 120, 60]], atol=1e-4)
    assert found.category_ids.tolist() == [2]


def test_boxes_in_parts_of_a_filled_square_come_back_in_pixels_of_the_image(mm_folder):
    """An image of 100 x 200 on a canvas of 200 x 200: its lower half is filled, and what is found there is outside."""
    prompts = pack(Vocabulary.load(["cat"]), Tokenizer.load(mm_folder))
    rule, boxes = ImageRule("square", (50, 50)), [[0.25, 0.25, 0.75, 0.4], [0.2, 0.6, 0.3, 0.9]]
    rows = np.array([[*box, 0.9, 0] for box in boxes], np.float32)
    score = Scorer(prompts, torch.device("cpu"), assignment="argmax", candidates=0, boxes="xyxy")
    found = score.detections(rows, 0, floor=0.1, height=100, width=200, frame=rule.frame(100, 200))
    np.testing.assert_allclose(found.boxes, [[50, 50, 150, 80]], atol=1e-4)


def test_a_tie_between_a_category_and_a_negative_goes_to_the_category(mm_folder):
    vocabulary = Vocabulary("tie", (Category(1, "cat", ("cat",), negative=True), Category(2, "fox", ("fox",))))
    prompts = pack(vocabulary, Tokenizer.load(mm_folder))
    width = len(prompts.chunks[0].input_ids)
    logits, mask = torch.zeros(1, 1, width), torch.ones(1, width, dtype=torch.bool)
    for assignment in ("argmax", "flattened"):
        score = OfLogits(prompts, width, assignment=assignment, candidates=1)
        rows = score(logits, torch.full((1, 1, 4), 0.5), mask, torch.tensor([0]))
        assert score.scorer.detections(rows[0].numpy(), 0, floor=0, height=9, width=9).category_ids.tolist() == [2]

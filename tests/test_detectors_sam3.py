"""SAM 3's network against the transformers forward pass, which makes every mask and pads nothing that is not masked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product
from typing import Any

import pytest
import torch

from labeler.detectors.network import Setup
from labeler.detectors.sam3.network import Sam3Network
from labeler.prompts import ImageRule
from labeler.prompts.sam3.plan import TOKENS, PhrasePasses, TokenizedPhrase
from tests.sam3_model import PHRASES, QUERIES, SIDE, sam3_model

PLAN = PhrasePasses(tuple(TokenizedPhrase(*phrase) for phrase in PHRASES))
RULE = ImageRule("stretch", (SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def model() -> Any:
    return sam3_model()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def network_of(model: Any, half: torch.dtype | None = None) -> Sam3Network:
    return Sam3Network(model, PLAN, Setup("drawn", RULE, half))


def scored(network: Sam3Network, pixels: torch.Tensor, images: list[int], passes: list[int]) -> Any:
    with torch.inference_mode():
        image, text = network.encode_image(pixels), network.encode_text()
        return network.detect(image.take(torch.tensor(images)), text.take(torch.tensor(passes)))


def theirs(model: Any, pixels: torch.Tensor, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores, corners) of one image and one phrase, by transformers' forward and the rule of its post-processing."""
    ids = list(ids)
    gap = TOKENS - len(ids)
    with torch.inference_mode():
        out = model(
            pixel_values=pixels,
            input_ids=torch.tensor([[*ids, *[2] * gap]]),  # theirs pads with the end's token: masked, all are one
            attention_mask=torch.tensor([[1] * len(ids) + [0] * gap]),
        )
    return out.pred_logits[0].sigmoid() * out.presence_logits[0].sigmoid(), out.pred_boxes[0]


def test_pairs_of_images_and_phrases_are_scored_as_transformers_scores_each(model: Any, pixels: torch.Tensor) -> None:
    network = network_of(model)
    pairs = [(image, number) for image in range(len(pixels)) for number in range(len(PHRASES))]
    found = scored(network, pixels, *map(list, zip(*pairs, strict=True)))  # type: ignore[arg-type]
    assert found.scores.shape == (len(pairs), QUERIES, 1)
    assert bool(found.finite.all())
    for row, (image, number) in enumerate(pairs):
        scores, boxes = theirs(model, pixels[image : image + 1], PHRASES[number][2])
        torch.testing.assert_close(found.scores[row, :, 0], scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.boxes[row], boxes, atol=1e-5, rtol=0)
    assert found.scores.std() > 0.01  # phrases and images differ
    assert (found.scores[0] - found.scores[1]).abs().max() > 1e-3


def test_a_phrase_is_scored_alike_in_any_company(model: Any, pixels: torch.Tensor) -> None:
    network = network_of(model)
    alone = scored(network, pixels[1:2], [0], [2])
    together = scored(network, pixels, [0, 1, 2, 1], [1, 2, 2, 0])
    torch.testing.assert_close(alone.scores[0], together.scores[1], atol=5e-6, rtol=0)
    torch.testing.assert_close(alone.boxes[0], together.boxes[1], atol=5e-6, rtol=0)


def test_1203_phrases_are_as_many_passes_each_as_transformers_scores_it(model: Any, pixels: torch.Tensor) -> None:
    words = islice(product(range(3, 100), repeat=2), 1203)
    plan = PhrasePasses(
        tuple(TokenizedPhrase(number + 1, f"thing {number}", (1, *ids, 2)) for number, ids in enumerate(words))
    )
    network = Sam3Network(model, plan, Setup("drawn", RULE, None))
    chosen = [0, 1, 600, 1201, 1202]
    with torch.inference_mode():
        image, text = network.encode_image(pixels[:1]), network.encode_text()
        found = [
            network.detect(image.take(torch.zeros(len(part), dtype=torch.long)), text.take(part))
            for part in torch.arange(plan.passes).split(64)
        ]
    scores, boxes = torch.cat([part.scores for part in found]), torch.cat([part.boxes for part in found])
    assert (plan.passes, len(scores)) == (1203, 1203)
    for number in chosen:
        expected = theirs(model, pixels[:1], plan.phrases[number].ids)
        torch.testing.assert_close(scores[number, :, 0], expected[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(boxes[number], expected[1], atol=1e-5, rtol=0)


def test_half_precision_is_near_and_its_boxes_are_not_rounded(model: Any, pixels: torch.Tensor) -> None:
    exact = scored(network_of(model), pixels, [0, 1, 2], [0, 1, 2])
    half = scored(network_of(model, torch.bfloat16), pixels, [0, 1, 2], [0, 1, 2])
    assert half.scores.dtype == half.boxes.dtype == torch.float32
    torch.testing.assert_close(half.scores, exact.scores, atol=0.05, rtol=0)
    torch.testing.assert_close(half.boxes, exact.boxes, atol=0.05, rtol=0)
    assert not torch.equal(half.boxes, half.boxes.bfloat16().float())


def test_a_score_that_is_not_a_number_is_seen(model: Any, pixels: torch.Tensor) -> None:
    broken = pixels.clone()
    broken[1, 0, 3, 3] = float("nan")
    assert scored(network_of(model), broken, [0, 1, 2], [0, 0, 0]).finite.tolist() == [True, False, True]


def test_the_start_runs_one_phrase_and_compares_half_precision(model: Any) -> None:
    with torch.inference_mode():
        network = network_of(model, torch.bfloat16)
        assert "% of" in network.start(network.encode_text())
        network = network_of(model)
        assert network.start(network.encode_text()) == ""


def test_a_plan_comes_back_from_its_json() -> None:
    assert PhrasePasses.from_json(PLAN.to_json()) == PLAN
    assert PLAN.passes == 4
    assert PLAN.phrase_categories == ((1,), (2,), (3,), (3,))
    swapped = PhrasePasses((PLAN.phrases[1], PLAN.phrases[0], *PLAN.phrases[2:]))
    assert swapped.fingerprint != PLAN.fingerprint

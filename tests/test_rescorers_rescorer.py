"""Second scores against transformers' own CLIP and SigLIP: crops, tokens, logits and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.rescorers import Rescorer, resolve_rescorer
from labeler.rescorers.preprocess import CropRule
from labeler.rescorers.texts import make_texts
from labeler.segmenters.start_check import check_rescorer
from labeler.vocabulary import Vocabulary
from tests.rescorer_parts import KINDS, SIDE, stock_logits, stock_pixels, tiny_rescorer
from tests.segmenter_parts import pattern

NAMES = ["cat", "dog", "traffic light"]
FOUND = Detections.of(
    [[3, 4, 50, 60], [20.4, 30.6, 90.2, 41], [0, 0, 160, 77], [70, 5, 71, 70], [3, 4, 50, 60]],
    [0.9, 0.8, 0.7, 0.6, 0.5],
    [1, 2, 3, 1, 3],
)


def rescorer_of(kind: str, names: Any = NAMES, *, folder: Path | None = None, **options: Any) -> Rescorer:
    checkpoint = resolve_rescorer(folder or tiny_rescorer(kind))
    about = {name: options.pop(name) for name in ("templates", "background") if name in options}
    texts = make_texts(checkpoint, Vocabulary.load(names), **about)
    return Rescorer(checkpoint, texts, device="cpu", threads=1, **options)


def second(found: Detections) -> np.ndarray:
    return np.asarray(found.more["score2"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_score_is_that_of_the_model_s_own_forward_on_the_crop(kind: str) -> None:
    folder, image = tiny_rescorer(kind), pattern(77, 160)
    crops = [image[4:60, 3:50], image[30:41, 20:91], image, image[5:70, 70:71], image[4:60, 3:50]]
    texts = [f"a photo of a {name}" for name in NAMES]
    logits = stock_logits(kind, folder, crops, [*texts, "background"] if kind == "clip" else texts)
    scores = logits.softmax(1) if kind == "clip" else logits.sigmoid()
    expected = scores.numpy()[np.arange(5), FOUND.category_ids - 1]
    found = rescorer_of(kind).rescore(image, FOUND)
    np.testing.assert_allclose(second(found), expected, atol=1e-5)
    assert expected.std() > 0.01, "the random model distinguishes boxes"
    for name in ("boxes", "scores", "category_ids", "chunks"):
        assert getattr(found, name) is getattr(FOUND, name), "the detector's boxes and scores stay"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_crop_is_what_the_image_processor_makes_of_it(kind: str) -> None:
    folder = tiny_rescorer(kind)
    rescorer = rescorer_of(kind)
    for height, width in ((40, 90), (90, 40), (32, 32), (7, 5), (300, 21), (SIDE, 2 * SIDE + 1)):
        crop = pattern(height, width, seed=height)
        ours = rescorer._normalized(rescorer.rule.fit(crop)[None])
        torch.testing.assert_close(ours, stock_pixels(kind, folder, crop), atol=1e-6, rtol=0)


def test_of_a_very_long_crop_only_the_middle_is_resized() -> None:
    rule = rescorer_of("clip").rule
    for crop in (pattern(3, 400), pattern(400, 3)):
        long = replace(rule, side=1 << 20)  # so that no crop counts as long
        short, new_long = SIDE, int(SIDE * 400 / 3)
        start = (new_long - SIDE) // 2
        from PIL import Image

        size = (new_long, short) if crop.shape[1] > 3 else (short, new_long)
        whole = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)).astype(int)
        middle = whole[:, start : start + SIDE] if crop.shape[1] > 3 else whole[start : start + SIDE]
        assert new_long > 16 * SIDE
        assert abs(rule.fit(crop).astype(int) - middle).max() <= 1
        assert long.side != rule.side


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_batches_and_company_change_nothing(kind: str) -> None:
    image, other = pattern(77, 160), pattern(60, 60, seed=5)
    alone = second(rescorer_of(kind).rescore(image, FOUND))
    small = rescorer_of(kind, boxes_per_batch=2)
    together = small.detect_prepared(
        [
            small.prepare_boxes(other, FOUND[:2]),
            small.prepare_boxes(image, FOUND),
            small.prepare_boxes(image, FOUND[:0]),
        ]
    )
    np.testing.assert_allclose(second(together[1]), alone, atol=1e-6)
    assert [len(found) for found in together] == [2, 5, 0]


def test_equal_boxes_share_a_crop_and_boxes_outside_have_no_score() -> None:
    rescorer, image = rescorer_of("clip"), pattern(77, 160)
    outside = Detections.of([[200, 0, 300, 50], [np.nan, 0, 9, 9], [-20, -9, 50, 60]], [0.9] * 3, [1, 2, 3])
    crops = rescorer.prepare_boxes(image, Detections.concat([FOUND, outside]))
    assert len(crops.pixels) == 5
    assert crops.crop_of[0] == crops.crop_of[4]
    assert crops.crop_of[5:].tolist()[:2] == [-1, -1]
    np.testing.assert_array_equal(np.isnan(second(rescorer.rescore(image, outside))), [True, True, False])


def test_the_margin_is_part_of_the_box_on_each_side_and_ends_at_the_image() -> None:
    rule = replace(rescorer_of("clip").rule, margin=0.25)
    windows, solid = rule.windows(np.array([[40, 20, 60, 60], [0, 0, 160, 70]], np.float32), 77, 160)
    assert windows.tolist() == [[35, 10, 65, 70], [0, 0, 160, 77]]
    assert solid.all()
    image = pattern(77, 160)
    wide = rescorer_of("clip", margin=0.25).rescore(image, Detections.of([[40, 20, 60, 60]], [0.5], [1]))
    cut = rescorer_of("clip").rescore(image, Detections.of([[35, 10, 65, 70]], [0.5], [1]))
    np.testing.assert_array_equal(second(wide), second(cut))


def test_a_category_has_the_score_of_its_best_phrase_and_a_phrase_the_mean_of_its_templates() -> None:
    image, templates = pattern(77, 160), ("a photo of a {}", "{} of a photo")
    names = [{"name": "animal", "phrases": ["cat", "dog"]}, {"name": "square", "phrases": ["square"]}]
    boxes = [image[4:60, 3:50], image[30:41, 20:91]]
    found = replace(FOUND[:2], category_ids=np.array([1, 1], np.int32))
    one = stock_logits("siglip", tiny_rescorer("siglip"), boxes, ["a photo of a cat", "a photo of a dog"])
    np.testing.assert_allclose(
        second(rescorer_of("siglip", names).rescore(image, found)), one.max(1).values.sigmoid().numpy(), atol=1e-5
    )
    both = second(rescorer_of("siglip", names, templates=templates).rescore(image, found))
    assert abs(both - one.max(1).values.sigmoid().numpy()).max() > 1e-4
    model = _stock("siglip")
    words = [[template.format(name) for template in templates] for name in ("cat", "dog")]
    np.testing.assert_allclose(both, _by_hand(model, boxes, words), atol=1e-5)


def _stock(kind: str) -> Any:
    import transformers

    return transformers.SiglipModel.from_pretrained(tiny_rescorer(kind), dtype=torch.float32).eval()


def _by_hand(model: Any, boxes: list[np.ndarray], words: list[list[str]]) -> np.ndarray:
    """SigLIP's score of the better of two phrases, each the mean of its prompts' unit vectors."""
    from tests.rescorer_parts import stock_tokens

    folder = tiny_rescorer("siglip")
    with torch.inference_mode():
        views = torch.cat(
            [model.get_image_features(stock_pixels("siglip", folder, box)).pooler_output for box in boxes]
        )
        columns = []
        for prompts in words:
            text = model.get_text_features(**stock_tokens("siglip", folder, prompts)).pooler_output
            mean = (text / text.norm(dim=1, keepdim=True)).mean(0)
            columns.append(views / views.norm(dim=1, keepdim=True) @ (mean / mean.norm()))
        logits = torch.stack(columns, 1) * model.logit_scale.exp() + model.logit_bias
        scores: np.ndarray = logits.max(1).values.sigmoid().numpy()
    return scores


def test_negatives_and_the_background_compete_for_a_box_of_clip() -> None:
    image, folder = pattern(77, 160), tiny_rescorer("clip")
    names = [{"name": "cat"}, {"name": "dog", "negative": True}]
    texts = ["a photo of a cat", "a photo of a dog", "a red circle"]
    logits = stock_logits("clip", folder, [image[4:60, 3:50]], texts)
    found = rescorer_of("clip", names, background=("a red circle",)).rescore(image, FOUND[:1])
    np.testing.assert_allclose(second(found), logits.softmax(1)[:, 0].numpy(), atol=1e-5)
    found = rescorer_of("clip", names, background=()).rescore(image, FOUND[:1])
    np.testing.assert_allclose(second(found), logits[:, :2].softmax(1)[:, 0].numpy(), atol=1e-5)


def test_memory_that_runs_out_halves_the_batch() -> None:
    rescorer, image = rescorer_of("clip", boxes_per_batch=4), pattern(77, 160)
    expected, score = second(rescorer_of("clip").rescore(image, FOUND)), rescorer._forward.score

    def short(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("full")
        return score(pixels)

    rescorer._forward.score = short  # type: ignore[method-assign]
    np.testing.assert_allclose(second(rescorer.rescore(image, FOUND)), expected, atol=1e-6)
    assert (rescorer.boxes_per_batch, rescorer.memory_halvings) == (2, 1)


def test_what_is_not_finite_in_half_precision_is_scored_in_float32() -> None:
    rescorer, image = rescorer_of("clip", dtype="bfloat16"), pattern(77, 160)
    score = rescorer._forward.score

    def overflowing(pixels: torch.Tensor) -> torch.Tensor:
        found = score(pixels)
        if rescorer._forward.half is not None:
            found[1] = torch.nan
        return found

    rescorer._forward.score = overflowing  # type: ignore[method-assign]
    expected = second(rescorer_of("clip").rescore(image, FOUND))
    found = second(rescorer.rescore(image, FOUND))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert (abs(found - expected) < 1e-6).any()
    assert rescorer.dtype == "bfloat16"


def test_scores_that_are_never_finite_are_null() -> None:
    rescorer = rescorer_of("clip")
    rescorer._forward._scale = torch.tensor(torch.nan)
    assert np.isnan(second(rescorer.rescore(pattern(77, 160), FOUND))).all()


def test_a_rescorer_that_cannot_run_is_found_by_one_picture() -> None:
    check_rescorer(rescorer_of("siglip"), 1)
    rescorer = rescorer_of("clip")
    rescorer._forward._scale = torch.tensor(torch.nan)
    with pytest.raises(Refused, match=r"rescore\.model: checkpoint .* gives scores with NaN or infinity"):
        check_rescorer(rescorer, 1)
    rescorer._mean = rescorer._mean[:, :2]
    with pytest.raises(Refused, match=r"rescore\.model: checkpoint .* does not run: The size of tensor"):
        check_rescorer(rescorer, 1)


def test_the_rule_has_the_checkpoint_s_own_settings() -> None:
    rule = CropRule.of(resolve_rescorer(tiny_rescorer("clip")), 0.0)
    assert (rule.shortest, rule.resample, rule.mean[0]) == (SIDE, 3, 0.48145466)
    rule = CropRule.of(resolve_rescorer(tiny_rescorer("siglip")), 0.0)
    assert (rule.shortest, rule.mean, rule.std) == (0, (0.5,) * 3, (0.5,) * 3)

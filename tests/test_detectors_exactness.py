"""Both engines against transformers' own monolithic forward, on models whose every parameter is redrawn."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.fast import FastForward
from labeler.detectors.grounding_dino.scratch import Size, create_checkpoint
from labeler.detectors.grounding_dino.split_forward import SplitForward
from labeler.prompts.grounding_dino import Prompts, pack
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.vocabulary import Vocabulary

WORDS = ["cat", "dog", "traffic light", "red fox", "house", "bird", "old car", "tree", "sea", "small boat"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["original", "mm"])
def folder(request, tmp_path_factory):
    return create_checkpoint(tmp_path_factory.mktemp(request.param), words=WORDS, kind=request.param, redraw=True)


@pytest.fixture(scope="module")
def stock(folder):
    """The unchanged transformers model, loaded separately from labeler."""
    return load_stock(folder)


@pytest.fixture(scope="module", params=[SplitForward, FastForward])
def split(folder, request):
    return request.param(load_stock(folder))


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    """A model whose backbone cannot take every image."""
    size = Size(backbone="convnext", queries=8)
    return create_checkpoint(tmp_path_factory.mktemp("convnext"), words=WORDS, size=size, redraw=True)


def load_stock(folder):
    name = checkpoints.resolve(folder).architecture
    return getattr(transformers, name).from_pretrained(folder).eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def packed(folder, names, **limits) -> Prompts:
    return pack(Vocabulary.load(names), Tokenizer.load(folder), **limits)


def ids(prompts: Prompts) -> list[tuple[int, ...]]:
    return [chunk.input_ids for chunk in prompts.chunks]


@cache
def pixels(seed: int, height: int = 90, width: int = 120) -> torch.Tensor:
    """A normalized image from transformers' own Pillow processor: smooth shapes and some noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 8, 3)).repeat(height // 6, 0).repeat(width // 8, 1)
    image = np.clip(coarse + generator.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 224})
    return torch.from_numpy(np.array(processor(image)["pixel_values"]))


def monolithic(stock, pixel_values, chunks, pixel_mask=None):
    """(logits, boxes) of the stock forward, each image with each chunk of its row, unpadded where there is one."""
    longest = max(map(len, chunks))
    input_ids = torch.tensor([[*chunk, *[0] * (longest - len(chunk))] for chunk in chunks])
    mask = torch.tensor([[1] * len(chunk) + [0] * (longest - len(chunk)) for chunk in chunks])
    found = stock(pixel_values=pixel_values, pixel_mask=pixel_mask, input_ids=input_ids, attention_mask=mask)
    return found.logits[..., :longest], found.pred_boxes


def assert_equal(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def test_redrawing_leaves_no_parameter_at_its_default(folder, tmp_path):
    kind = "mm" if "mm-" in (folder / "config.json").read_text() else "original"
    redrawn, fresh = (
        dict(getattr(transformers, checkpoints.resolve(path).architecture).from_pretrained(path).named_parameters())
        for path in (folder, create_checkpoint(tmp_path, words=WORDS, kind=kind))
    )
    assert redrawn.keys() == fresh.keys()
    for name, parameter in redrawn.items():
        assert (parameter != fresh[name]).all(), name
        if parameter.numel() > 1:
            assert parameter.std() > 0.01, name


def test_the_redrawn_model_says_something(folder, stock):
    """Saturated or constant outputs would be equal whatever the code does."""
    logits, boxes = monolithic(stock, pixels(0), ids(packed(folder, WORDS)))
    finite = logits[logits.isfinite()]
    assert finite.std() > 0.1
    assert ((boxes > 0.02) & (boxes < 0.98)).float().mean() > 0.7
    assert boxes[..., :2].std(dim=1).min() > 0.05  # centers
    assert boxes[..., 2:].std(dim=1).min() > 0.003  # sides: proposals start at 0.05 of the image


def test_one_image_and_one_chunk_equal_the_monolithic_forward(folder, stock, split):
    chunks = ids(packed(folder, WORDS))
    got = split.detect(split.encode_image(pixels(0)), split.encode_text(chunks))
    assert_equal(got, monolithic(stock, pixels(0), chunks))


def test_another_shape_of_image_equals_the_monolithic_forward(folder, stock, split):
    chunks, tall = ids(packed(folder, WORDS)), pixels(1, 180, 80)
    assert_equal(split.detect(split.encode_image(tall), split.encode_text(chunks)), monolithic(stock, tall, chunks))


@pytest.mark.parametrize("engine", [SplitForward, FastForward])
@pytest.mark.parametrize("size", [(29, 192), (192, 31), (1, 192), (192, 1), (5, 7)])
def test_an_image_too_narrow_for_its_backbone_equals_the_monolithic_forward_on_the_padded_image(convnext, size, engine):
    split = engine(load_stock(convnext))
    prompts = packed(convnext, WORDS, max_categories=4)
    image = torch.randn(2, 3, *size)
    with pytest.raises(RuntimeError, match="Kernel size"):
        split.model.backbone.conv_encoder(image, torch.ones_like(image[:, 0], dtype=torch.long))
    height, width = (max(32, side) for side in size)
    padded, mask = torch.zeros(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.long)
    padded[..., : size[0], : size[1]], mask[:, : size[0], : size[1]] = image, 1
    which = torch.tensor([0, 1])
    got = split.detect(split.encode_image(image), split.encode_text(ids(prompts)).take(which))
    assert_equal(got, monolithic(load_stock(convnext), padded, ids(prompts)[:2], mask))


def test_the_least_side_is_what_the_backbone_can_take(convnext, folder):
    assert FastForward(load_stock(convnext)).least_side == 32
    assert SplitForward(load_stock(folder)).least_side == 1  # Swin pads by itself


def test_an_image_is_the_same_alone_and_with_others_of_its_shape(folder, stock, split):
    chunks = ids(packed(folder, WORDS))
    together = torch.cat([pixels(seed) for seed in (3, 0, 4)])
    text = split.encode_text(chunks).take(torch.tensor([0, 0, 0]))
    logits, boxes = split.detect(split.encode_image(together), text)
    assert_equal((logits[1:2], boxes[1:2]), monolithic(stock, pixels(0), chunks))


def test_a_chunk_is_the_same_padded_and_unpadded(folder, stock, split):
    short, long = ids(packed(folder, WORDS[:3])), ids(packed(folder, WORDS))
    text = split.encode_text(short + long)
    assert not text.token_mask[0].all()
    padded = split.detect(split.encode_image(pixels(0)), text.take(torch.tensor([0])))
    assert padded[0][0, :, len(short[0]) :].eq(float("-inf")).all()
    unpadded = monolithic(stock, pixels(0), short)
    assert_equal((padded[0][..., : len(short[0])], padded[1]), unpadded)


def test_a_chunk_read_as_one_sentence_equals_the_monolithic_forward_with_an_open_mask(
    folder, stock, split, monkeypatch
):
    """`prompts.protocol: glip`; theirs has no such switch, so its function that closes phrases off is replaced."""

    def open_mask(input_ids, special_tokens):
        here = input_ids != 0
        closed = torch.eye(input_ids.shape[1], dtype=torch.bool)
        return (here[:, None] & here[:, :, None]) | closed, torch.arange(input_ids.shape[1]).expand(input_ids.shape)

    short, long = ids(packed(folder, WORDS[:3])), ids(packed(folder, WORDS))
    closed = monolithic(stock, pixels(0), long)
    module = sys.modules[type(stock).__module__]
    monkeypatch.setattr(module, "generate_masks_with_special_tokens_and_transfer_map", open_mask)
    text = split.encode_text(short + long, whole=True)
    expected = monolithic(stock, pixels(0), long)
    assert_equal(split.detect(split.encode_image(pixels(0)), text.take(torch.tensor([1]))), expected)
    assert (closed[0] - expected[0])[closed[0].isfinite()].abs().max() > 10 * TOLERANCE
    padded = split.detect(split.encode_image(pixels(0)), text.take(torch.tensor([0])))
    unpadded = monolithic(stock, pixels(0), short)
    assert_equal((padded[0][..., : len(short[0])], padded[1]), unpadded)


def test_a_chunk_that_does_not_end_in_a_period_is_refused(folder, split):
    with pytest.raises(ValueError, match="end with"):
        split.encode_text([(101, 2000, 1012, 2001, 102)])


def test_an_unrelated_phrase_leaves_the_features_of_the_others_alone(folder, split):
    few, more = packed(folder, ["cat", "red fox"]), packed(folder, ["cat", "red fox", "house", "traffic light"])
    text, other = split.encode_text(ids(few)), split.encode_text(ids(more))
    for phrase in few.chunks[0].phrases:
        at = list(phrase.positions)
        torch.testing.assert_close(text.features[0, at], other.features[0, at], atol=1e-5, rtol=0)


def test_the_order_of_phrases_leaves_their_features_alone(folder, split):
    names = ["cat", "red fox", "house", "traffic light"]
    forward, backward = packed(folder, names), packed(folder, names[::-1])
    text, other = split.encode_text(ids(forward)), split.encode_text(ids(backward))
    there = {phrase.text: list(phrase.positions) for phrase in backward.chunks[0].phrases}
    for phrase in forward.chunks[0].phrases:
        here = text.features[0, list(phrase.positions)]
        torch.testing.assert_close(here, other.features[0, there[phrase.text]], atol=1e-5, rtol=0)


def test_several_chunks_at_once_equal_one_at_a_time(folder, stock, split):
    chunks = ids(packed(folder, WORDS, max_categories=3))
    assert len(chunks) == 4
    which = torch.arange(4)
    image = split.encode_image(pixels(0)).take(torch.zeros(4, dtype=torch.long))
    logits, boxes = split.detect(image, split.encode_text(chunks).take(which))
    for chunk, row in zip(chunks, which, strict=True):
        got = (logits[row : row + 1, :, : len(chunk)], boxes[row : row + 1])
        assert_equal(got, monolithic(stock, pixels(0), [chunk]))


def test_images_and_chunks_mixed_in_one_batch_equal_each_pair_alone(folder, stock, split):
    chunks = ids(packed(folder, WORDS, max_categories=5))
    image = split.encode_image(torch.cat([pixels(0), pixels(3)]))
    images, which = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    logits, boxes = split.detect(image.take(images), split.encode_text(chunks).take(which))
    for row, (seed, chunk) in enumerate([(0, 0), (3, 0), (0, 1), (3, 1)]):
        tokens = len(chunks[chunk])
        got = (logits[row : row + 1, :, :tokens], boxes[row : row + 1])
        assert_equal(got, monolithic(stock, pixels(seed), [chunks[chunk]]))


def test_features_used_before_equal_fresh_ones_to_the_bit(folder, split):
    chunks = ids(packed(folder, WORDS, max_categories=5))
    image, text = split.encode_image(pixels(0)).take(torch.tensor([0, 0])), split.encode_text(chunks)
    first = split.detect(image, text)
    again = split.detect(image, text)
    fresh = split.detect(split.encode_image(pixels(0)).take(torch.tensor([0, 0])), split.encode_text(chunks))
    for a, b, c in zip(first, again, fresh, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_under_autocast_the_boxes_stay_float32_and_close(folder, split):
    """bfloat16 on a CPU replaces half precision on a GPU: the float32 parts are the same code."""
    half = type(split)(split.detector, half=torch.bfloat16)
    chunks = ids(packed(folder, WORDS))
    exact = split.detect(split.encode_image(pixels(0)), split.encode_text(chunks))
    text = half.encode_text(chunks)
    assert torch.equal(text.features, split.encode_text(chunks).features)
    image = half.encode_image(pixels(0))
    assert image.features.dtype == image.position_embedding.dtype == torch.float32
    assert torch.equal(image.position_embedding, split.encode_image(pixels(0)).position_embedding)
    logits, boxes = half.detect(image, text)
    assert logits.dtype == boxes.dtype == torch.float32
    assert not torch.equal(boxes, exact[1])  # it did run in half precision
    # 8 bits of mantissa, and steps between neighboring box values far below bfloat16's
    assert boxes.flatten().unique().numel() > 0.9 * boxes.numel()
    assert (boxes.to(torch.bfloat16).float() != boxes).float().mean() > 0.9


def test_under_autocast_every_head_with_a_coordinate_or_a_logit_computes_in_float32(folder):
    name = checkpoints.resolve(folder).architecture
    half = SplitForward(getattr(transformers, name).from_pretrained(folder).eval(), half=torch.bfloat16)
    ran: dict[str, torch.dtype] = {}

    def watch(name):
        return lambda module, arguments, output: ran.update({name: output.dtype})

    for name, module in half.detector.named_modules():
        if isinstance(module, torch.nn.Linear) or "class_embed" in name.split(".")[-2:]:
            module.register_forward_hook(watch(name))
    half.detect(half.encode_image(pixels(0)), half.encode_text(ids(packed(folder, WORDS))))
    heads = {name: dtype for name, dtype in ran.items() if "bbox_embed" in name or "class_embed" in name}
    heads |= {name: dtype for name, dtype in ran.items() if "reference_points_head" in name}
    assert len(heads) >= 12
    assert set(heads.values()) == {torch.float32}
    assert ran["model.encoder.layers.0.deformable_layer.fc1"] == torch.bfloat16  # while the bulk is in half precision


def test_the_detector_prepares_pixels_equal_to_the_bit_to_the_pillow_processor(folder):
    detector = GroundingDino(folder, ["cat"], threads=1)
    generator = np.random.default_rng(5)
    for height, width in [(90, 120), (300, 100), (128, 150), (77, 500)]:
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = detector._passes.normalize(detector._passes.upload([detector.prepare(image)]))
        theirs = GroundingDinoImageProcessorPil.from_pretrained(folder)(image)["pixel_values"][0]
        assert np.array_equal(ours[0].numpy(), theirs)

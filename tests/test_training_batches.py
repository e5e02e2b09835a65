"""Training data: prompts, targets and batches are a pure function of seed and step, and what is held out stays out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_parts import tiny_checkpoint

from labeler import checkpoints
from labeler.detectors.grounding_dino.wordpiece import write_wordpiece
from labeler.detectors.preprocess import Preprocessing
from labeler.errors import Refused
from labeler.prompts.grounding_dino import PromptChunk, positive_map
from labeler.prompts.grounding_dino.tokenizer import Tokenizer
from labeler.training.batches import Batch, Batches, collate
from labeler.training.examples import Example, ShapesSource
from labeler.training.prompting import PromptSampler
from labeler.training.shapes import ALL, HELD_OUT, SEEN
from labeler.vocabulary import Category, Vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words")
    write_wordpiece(folder, [c.name for c in ALL])
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def preprocessing(tmp_path_factory: pytest.TempPathFactory) -> Preprocessing:
    return Preprocessing.of(checkpoints.resolve(tiny_checkpoint(tmp_path_factory.mktemp("tiny"))))


def _sampler(tokenizer: Tokenizer, low: int = 3, high: int = 10, **options: float) -> PromptSampler:
    vocabulary = Vocabulary("seen", tuple(Category(c.category_id, c.name, (c.name,)) for c in SEEN))
    return PromptSampler(vocabulary, tokenizer, min_categories=low, max_categories=high, **options)  # type: ignore[arg-type]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _ids(prompt: PromptChunk) -> list[int]:
    return [phrase.category_id for phrase in prompt.phrases]


def test_an_empty_image_is_asked_for_absent_categories_only(tokenizer: Tokenizer) -> None:
    prompt = _sampler(tokenizer).draw(_rng(), [], 5)
    assert len(set(_ids(prompt))) == 5


def test_a_prompt_has_what_is_in_the_image_and_sampled_negatives_in_random_order(tokenizer: Tokenizer) -> None:
    sampler, present = _sampler(tokenizer), [SEEN[0].category_id, SEEN[7].category_id]
    orders = [_ids(sampler.draw(_rng(seed), present * 2, 8)) for seed in range(20)]
    assert all(set(present) <= set(order) and len(set(order)) == len(order) == 8 for order in orders)
    assert len({order.index(present[0]) for order in orders}) > 4
    assert len({tuple(sorted(order)) for order in orders}) > 10


def test_a_prompt_shorter_than_what_is_present_asks_for_some_of_it(tokenizer: Tokenizer) -> None:
    present = {c.category_id for c in SEEN[:6]}
    prompts = [_ids(_sampler(tokenizer, 1, 3).draw(_rng(seed), present, 2)) for seed in range(30)]
    assert all(len(ids) == 2 and set(ids) <= present for ids in prompts)
    assert {i for ids in prompts for i in ids} == present


def test_prompts_never_name_what_the_vocabulary_leaves_out(tokenizer: Tokenizer) -> None:
    sampler, held_out = _sampler(tokenizer, 1, 66), {c.category_id for c in HELD_OUT}
    rng = _rng()
    assert not any(held_out & set(_ids(sampler.draw(rng, [], sampler.draw_size(rng)))) for _ in range(100))


def test_a_prompt_is_assembled_as_the_detector_assembles_it(tokenizer: Tokenizer) -> None:
    prompt = _sampler(tokenizer).draw(_rng(), [SEEN[0].category_id], 4)
    ids = [101]
    for phrase in prompt.phrases:
        assert phrase.positions == tuple(range(len(ids), len(ids) + 2))
        ids += [*tokenizer.word_ids(phrase.text), 1012]
    assert prompt.input_ids == (*ids, 102)
    assert positive_map(prompt, len(prompt.input_ids)).sum() == pytest.approx(4)


def test_dropped_categories_are_neither_asked_for_nor_replaced_by_themselves(tokenizer: Tokenizer) -> None:
    present = [c.category_id for c in SEEN[:4]]
    prompt = _sampler(tokenizer, drop=1.0).draw(_rng(), present, 6)
    assert len(_ids(prompt)) == 6
    assert not set(_ids(prompt)) & set(present)


def test_in_a_federated_image_only_verified_categories_are_negatives(tokenizer: Tokenizer) -> None:
    verified = [SEEN[4].category_id, SEEN[5].category_id]
    prompt = _sampler(tokenizer).draw(_rng(), [SEEN[0].category_id], 10, negatives=verified)
    assert set(_ids(prompt)) == {SEEN[0].category_id, *verified}


def test_the_token_budget_is_kept_and_what_is_present_goes_first(tokenizer: Tokenizer) -> None:
    present = [c.category_id for c in SEEN[:3]]
    prompt = _sampler(tokenizer, max_tokens=15).draw(_rng(), present, 10)
    assert len(prompt.input_ids) <= 15
    assert set(present) <= set(_ids(prompt))


def test_a_vocabulary_that_the_tokenizer_cannot_spell_is_refused(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary("bad", (Category(1, "猫", ("猫",)),))
    with pytest.raises(Refused, match="unknown to the tokenizer"):
        PromptSampler(vocabulary, tokenizer, min_categories=1, max_categories=1)


def test_only_asked_for_objects_are_targets_at_their_own_tokens(tokenizer: Tokenizer) -> None:
    sampler = _sampler(tokenizer)
    one, two, other = (c.category_id for c in SEEN[:3])
    boxes = np.asarray([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2], [0.7, 0.7, 0.1, 0.1]], np.float32)
    pixels = np.zeros((8, 8, 3), np.uint8)
    examples = [Example(pixels, boxes, np.asarray([one, two, one])), Example(pixels, boxes[:1], np.asarray([other]))]
    prompts = [sampler.draw(_rng(1), [one], 3, negatives=[other]), sampler.draw(_rng(2), [], 4, negatives=[one])]
    batch = collate(examples, prompts)
    assert batch.targets.counts == (2, 0)  # `two` was not asked for in the first, `other` not in the second
    torch.testing.assert_close(batch.targets.boxes[0], torch.from_numpy(boxes[[0, 2]]))
    positions = next(p.positions for p in prompts[0].phrases if p.category_id == one)
    assert batch.targets.tokens[0, 0].nonzero().flatten().tolist() == list(positions)
    assert batch.token_mask.sum(1).tolist() == [len(p.input_ids) for p in prompts]


def _equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.pixels, second.pixels)
        and torch.equal(first.input_ids, second.input_ids)
        and torch.equal(first.targets.boxes, second.targets.boxes)
        and torch.equal(first.targets.tokens, second.targets.tokens)
    )


def _batches(preprocessing: Preprocessing, tokenizer: Tokenizer, size: int = 4, **options: int) -> Batches:
    source = ShapesSource(preprocessing, SEEN, seed=5)
    return Batches(source, _sampler(tokenizer), batch_size=size, seed=5, **options)  # type: ignore[arg-type]


def test_a_step_s_batch_is_the_same_whenever_it_is_drawn(preprocessing: Preprocessing, tokenizer: Tokenizer) -> None:
    batches = _batches(preprocessing, tokenizer)
    third = batches[3]
    assert _equal(third, _batches(preprocessing, tokenizer)[3])
    assert not torch.equal(third.pixels, batches[4].pixels) if third.pixels.shape == batches[4].pixels.shape else True
    ahead = batches.loader(2, 5, processes=0)
    next(ahead)
    assert _equal(next(ahead), third)


def test_workers_share_a_step_without_overlap(preprocessing: Preprocessing, tokenizer: Tokenizer) -> None:
    whole = _batches(preprocessing, tokenizer)[0].pixels
    parts = [_batches(preprocessing, tokenizer, rank=rank, world=2)[0].pixels for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_scenes_of_a_batch_have_one_shape_and_no_held_out_combination(preprocessing: Preprocessing) -> None:
    source, held_out = ShapesSource(preprocessing, SEEN, seed=1), {c.category_id for c in HELD_OUT}
    shapes = set()
    for step in range(12):
        examples = source.batch(step, 3, slice(0, 3))
        assert len({e.pixels.shape for e in examples}) == 1
        assert not held_out & {int(i) for e in examples for i in e.category_ids}
        shapes.add(examples[0].pixels.shape)
    assert len(shapes) > 2


def test_a_limited_number_of_scenes_comes_round_again(preprocessing: Preprocessing) -> None:
    source = ShapesSource(preprocessing, SEEN, seed=1, images=2, sizes=[(64, 64)])
    first, second, again = (source.batch(step, 1, slice(0, 1))[0] for step in range(3))
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, second.pixels)


def test_a_mirrored_example_has_mirrored_boxes() -> None:
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[1:3, 1:4] = 255
    mirrored = Example(pixels, np.asarray([[0.25, 0.5, 0.3, 0.5]], np.float32), np.asarray([1])).mirrored()
    columns = np.flatnonzero(mirrored.pixels[1, :, 0])
    assert mirrored.boxes[0, 0] == pytest.approx((columns[0] + columns[-1] + 1) / 2 / 10)


def test_one_prompt_for_the_batch_when_it_is_shared(preprocessing: Preprocessing, tokenizer: Tokenizer) -> None:
    batch = _batches(preprocessing, tokenizer, share_prompt=1)[1]
    assert torch.equal(batch.input_ids, batch.input_ids[:1].expand_as(batch.input_ids))

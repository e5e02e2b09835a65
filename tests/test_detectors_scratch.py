"""Checkpoints with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.grounding_dino.scratch import KINDS, Size, create_checkpoint
from labeler.detectors.loading import load_model
from labeler.prompts.grounding_dino.tokenizer import CLS_ID, PERIOD_ID, SEP_ID, Tokenizer
from tests.detector_parts import WORDS


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


def _spread(folder: Path) -> dict[str, float]:
    """The spread of the scores and boxes of one image, and the range of the scores."""
    checkpoint = checkpoints.resolve(folder)
    detector = load_model(checkpoint, torch.device("cpu"))
    words = Tokenizer.load(folder).word_ids(" ".join(WORDS[:8]))
    ids = torch.tensor([[CLS_ID, *(token for word in words for token in (word, PERIOD_ID)), SEP_ID]])
    patches = torch.rand((1, 3, 6, 8), generator=torch.Generator().manual_seed(0))
    pixels = functional.interpolate(patches, scale_factor=32, mode="bicubic")  # room for the full size's 900 queries
    with torch.inference_mode():
        found = detector(
            pixel_values=4 * pixels - 2,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=torch.zeros_like(ids),
        )
    logits = found.logits[0][:, 1 : ids.shape[1] - 1 : 2]  # of the words, not of the periods
    return {
        "queries": float(logits.std(0).mean()),
        "words": float(logits.std(1).mean()),
        "far": float(logits.abs().mean()),
        "boxes": float(found.pred_boxes[0].std(0).mean()),
    }


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("size", ["tiny", "small", pytest.param("full", marks=pytest.mark.slow)])
def test_drawn_weights_of_every_size_spread_scores_and_boxes(tmp_path: Path, kind: str, size: str) -> None:
    found = _spread(create_checkpoint(tmp_path, words=WORDS, kind=kind, size=size, redraw=True))
    assert found["queries"] > 0.1, found
    assert found["words"] > 0.05, found
    assert found["far"] < 8, "a score of a logit beyond is 0 or 1 for any image"
    assert found["boxes"] > 0.03, found

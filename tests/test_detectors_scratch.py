"""Checkpoints with random weights."""

from __future__ import annotations

import torch

from labeler import checkpoints
from labeler.detectors import GroundingDino
from labeler.detectors.scratch import Size, create_checkpoint
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

"""Batches: examples of one shape with their prompts and targets, as a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from labeler.prompts.grounding_dino import PromptChunk
from labeler.training.examples import Example, ExampleSource, NoneReadable
from labeler.training.losses import Targets
from labeler.training.prompting import PromptSampler


@dataclass(frozen=True)
class Batch:
    """One step's work of one worker.

    Attributes:
        pixels: (images, h, w, 3) uint8 RGB.
        input_ids: (images, tokens) int64, 0 = [PAD] behind the end.
        token_mask: (images, tokens) bool.
        unreadable: names of the images that others stand for.
    """

    pixels: Tensor
    input_ids: Tensor
    token_mask: Tensor
    targets: Targets
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """A step without a batch: none of its images can be read."""

    unreadable: tuple[str, ...]


class Batches(Dataset["Batch | Dropped"]):
    """Item `step` is that step's batch: nothing has to be remembered to continue after a restart."""

    def __init__(
        self,
        source: ExampleSource,
        sampler: PromptSampler,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        flip: float = 0.0,
        share_prompt: bool = False,
    ) -> None:
        """
        Args:
            batch_size: images of a step over all `world` workers, of which this is number `rank`.
            share_prompt: one prompt for all images of the batch instead of one each.
        """
        self._source, self._sampler = source, sampler
        self._batch_size, self._seed = batch_size, seed
        each = batch_size // world
        self._part = slice(rank * each, (rank + 1) * each)
        self._flip, self._share_prompt = flip, share_prompt

    @property
    def stored_images(self) -> int:
        """Return how many images are read; 0 if they are drawn."""
        return self._source.stored_images

    def __getitem__(self, step: int) -> Batch | Dropped:
        try:
            examples = self._source.batch(step, self._batch_size, self._part)
        except NoneReadable as none:
            return Dropped(none.names)
        # A generator of its own for each image: however many workers there are, it is treated the same.
        places = range(self._part.start, self._part.stop)
        rngs = [np.random.default_rng([self._seed, step, place]) for place in places]
        examples = [e.mirrored() if rng.random() < self._flip else e for rng, e in zip(rngs, examples, strict=True)]
        size = self._sampler.draw_size(np.random.default_rng([self._seed, step]))  # one for all: little padding
        if self._share_prompt:
            return collate(examples, [self._ask_all(rngs[0], examples, size)] * len(examples))
        prompts = [
            self._sampler.draw(rng, e.category_ids.tolist(), size, negatives=e.negatives)
            for rng, e in zip(rngs, examples, strict=True)
        ]
        return collate(examples, prompts)

    def _ask_all(self, rng: np.random.Generator, examples: Sequence[Example], size: int) -> PromptChunk:
        present = [int(i) for e in examples for i in e.category_ids]
        known = [set(e.negatives) | set(e.category_ids.tolist()) for e in examples if e.negatives is not None]
        negatives = sorted(set.intersection(*known)) if known else None
        return self._sampler.draw(rng, present, size, negatives=negatives)

    def loader(self, start: int, stop: int, *, processes: int) -> Iterator[Batch | Dropped]:
        """Return the batches of steps start..stop-1, prepared ahead by other processes (0: by this one, when asked)."""
        options: dict[str, Any] = {"generator": torch.Generator()}  # else it takes a number from the model's own
        if processes:
            options |= {"multiprocessing_context": "spawn", "prefetch_factor": 4, "worker_init_fn": _single_thread}
        loader = DataLoader(
            self, batch_size=None, sampler=range(start, stop), num_workers=processes, collate_fn=None, **options
        )
        return iter(loader)


def _single_thread(_: int) -> None:
    torch.set_num_threads(1)


def collate(examples: Sequence[Example], prompts: Sequence[PromptChunk]) -> Batch:
    """Return examples of one shape, each with its prompt, as one batch; objects that were not asked for are not
    targets.
    """
    longest = max(len(prompt.input_ids) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.int64)
    mask = torch.zeros((len(prompts), longest), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.input_ids)] = torch.tensor(prompt.input_ids)
        mask[row, : len(prompt.input_ids)] = True
    pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
    unreadable = tuple(name for example in examples for name in example.instead_of)
    return Batch(pixels, ids, mask, _targets(examples, prompts, longest), unreadable)


def _targets(examples: Sequence[Example], prompts: Sequence[PromptChunk], width: int) -> Targets:
    per_image = []
    for example, prompt in zip(examples, prompts, strict=True):
        positions: dict[int, list[int]] = {}
        for phrase in prompt.phrases:
            positions.setdefault(phrase.category_id, []).extend(phrase.positions)
        asked = [place for place, id_ in enumerate(example.category_ids.tolist()) if id_ in positions]
        rows = [positions[int(example.category_ids[place])] for place in asked]
        per_image.append((example.boxes[asked], rows, example.category_ids[asked]))
    most = max(1, max(len(rows) for _, rows, _ in per_image))
    boxes = torch.zeros((len(examples), most, 4))
    boxes[..., :] = torch.tensor([0.5, 0.5, 1.0, 1.0])  # padding has to be a box, too: costs of NaN would spread
    tokens = torch.zeros((len(examples), most, width))
    category_ids = torch.zeros((len(examples), most), dtype=torch.int64)
    for image, (found, rows, ids) in enumerate(per_image):
        boxes[image, : len(rows)] = torch.from_numpy(found)
        category_ids[image, : len(rows)] = torch.from_numpy(ids)
        for place, columns in enumerate(rows):
            tokens[image, place, columns] = 1.0
    return Targets(boxes, tokens, tuple(len(rows) for _, rows, _ in per_image), category_ids)

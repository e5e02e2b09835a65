"""From the pixels of images of one shape to their candidates, all on the device; nothing in here waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from labeler.detectors.grounding_dino.scoring import Scorer
from labeler.detectors.grounding_dino.split_forward import ImageFeatures, SplitForward, TextFeatures
from labeler.detectors.preprocess import Prepared, Preprocessing


class Passes:
    """An image's backbone once, then all of its passes, each a pair of the image and a prompt chunk.

    Attributes:
        forward, text, score: what is run; `text` holds every chunk.
        pairs_per_batch: (image, chunk) pairs in one forward.
    """

    def __init__(
        self, forward: SplitForward, text: TextFeatures, score: Scorer, preprocessing: Preprocessing, pairs: int = 1
    ) -> None:
        self.forward, self.text, self.score, self.pairs_per_batch = forward, text, score, pairs
        device = forward.device
        self._scale = torch.tensor(preprocessing.rule.scale, dtype=torch.float64)
        self._mean = torch.tensor(preprocessing.rule.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.rule.std, device=device).view(1, 3, 1, 1)

    def upload(self, images: Sequence[Prepared]) -> Tensor:
        """(images, h, w, 3) uint8 on the device, of images of one shape."""
        stacked = torch.from_numpy(np.stack([image.pixels for image in images]))
        if self.forward.device.type == "cuda":  # from pinned memory: the copy runs beside what the GPU still has to do
            stacked = stacked.pin_memory()
        return stacked.to(self.forward.device, non_blocking=True)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(images, 3, h, w) float32, equal to the bit to what the checkpoint's Pillow processor makes."""
        scaled = (pixels.permute(0, 3, 1, 2).double() * self._scale).float()  # it, too, scales in float64
        return ((scaled - self._mean) / self._std).contiguous()

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Features of uploaded images."""
        return self.forward.encode_image(self.normalize(pixels))

    def __call__(self, pixels: Tensor) -> Tensor | None:
        """All pairs of the images with all chunks, `pairs_per_batch` at a time: (images, chunks, candidates, 6).

        None where the images have fewer positions than the model asks for queries.
        """
        encoded, chunks = self.encode(pixels), len(self.text.features)
        if encoded.features.shape[1] < self.forward.num_queries:
            return None
        parts = []
        for start in range(0, len(pixels) * chunks, self.pairs_per_batch):
            stop = min(start + self.pairs_per_batch, len(pixels) * chunks)
            parts.append(self.run(encoded, torch.arange(start, stop, device=pixels.device)))
        rows = torch.cat(parts)
        return rows.view(len(pixels), chunks, *rows.shape[1:])

    def pads(self, pixels: Tensor) -> bool:
        """Return whether uploaded images are padded for the backbone: no recording can be made of that."""
        return min(pixels.shape[1:3]) < self.forward.least_side

    @property
    def kept(self) -> object:
        """What the last call read of what is kept between calls, and may be dropped."""
        return getattr(self.forward, "last_levels", None)

    def run(self, encoded: ImageFeatures, pairs: Tensor) -> Tensor:
        """(pairs, candidates, 6) of one forward; pair number p is image p // chunks with chunk p % chunks."""
        chunks = len(self.text.features)
        which = pairs % chunks
        text = self.text.take(which)
        logits, boxes = self.forward.detect(encoded.take(pairs // chunks), text)
        return self.score(logits, boxes, text.token_mask, which)

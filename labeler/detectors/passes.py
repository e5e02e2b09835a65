"""From the pixels of images of one shape to their candidates, all on the device; nothing in here waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from labeler.detectors.batch_size import MOST_POSITIONS
from labeler.detectors.network import Image, Network, Text
from labeler.detectors.preprocess import Prepared
from labeler.detectors.scoring import Scorer
from labeler.detectors.upload import upload
from labeler.prompts import ImageRule


class Passes(Generic[Image, Text]):
    """An image's backbone once, then all of its passes, each a pair of the image and a pass's text.

    Attributes:
        network, text, score: what is run; `text` holds every pass.
        numbers: of the passes that are run, out of all that `text` holds.
        passes: how many they are.
        pairs_per_batch: (image, pass) pairs in one forward pass.
    """

    def __init__(
        self,
        network: Network[Image, Text],
        text: Text,
        score: Scorer,
        rule: ImageRule,
        *,
        passes: int,
        only: Sequence[int] | None = None,
        pairs_per_batch: int = 1,
    ) -> None:
        """
        Args:
            passes: of the plan.
            only: which of them are run; None for all.
        """
        self.network, self.text, self.score = network, text, score
        self.numbers = tuple(range(passes) if only is None else only)
        self.passes, self.pairs_per_batch = len(self.numbers), pairs_per_batch
        self._numbers = None if only is None else torch.tensor(self.numbers, device=network.device)
        self._rule = rule
        self._scale = torch.tensor(rule.scale, dtype=torch.float64)
        self._mean = torch.tensor(rule.mean, device=network.device).view(1, 3, 1, 1)
        self._std = torch.tensor(rule.std, device=network.device).view(1, 3, 1, 1)

    def upload(self, images: Sequence[Prepared]) -> Tensor:
        """Return (images, h, w, 3) on the device, of images of one shape; float32 where they are resized there, else
        uint8.
        """
        return upload(images, self._rule, self.network.device)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return (images, 3, h, w) float32, equal to the bit to what the checkpoint's Pillow processor makes."""
        scaled = (pixels.permute(0, 3, 1, 2).double() * self._scale).float()  # it, too, scales in float64
        return ((scaled - self._mean) / self._std).contiguous()

    def encode(self, pixels: Tensor) -> Image:
        """Return features of uploaded images."""
        return self.network.encode_image(self.normalize(pixels))

    def __call__(self, pixels: Tensor) -> Tensor | None:
        """Return all pairs of the images with all passes: (images, passes, candidates, 6).

        `pairs_per_batch` at a time, fewer where images are so large that 32-bit indices would not do.

        None where the images have fewer positions than the network has candidates.
        """
        encoded = self.encode(pixels)
        if self.network.positions(encoded) < self.network.candidates:
            return None
        parts = []
        most = max(1, min(self.pairs_per_batch, MOST_POSITIONS // self.network.positions(encoded)))
        for start in range(0, len(pixels) * self.passes, most):
            stop = min(start + most, len(pixels) * self.passes)
            pairs = torch.arange(start, stop, device=pixels.device)  # pair p is image p // passes with pass p % passes
            which = pairs % self.passes
            if self._numbers is not None:
                which = self._numbers[which]
            scored = self.network.detect(encoded.take(pairs // self.passes), self.text.take(which))
            parts.append(self.score(scored, which))
        rows = torch.cat(parts)
        return rows.view(len(pixels), self.passes, *rows.shape[1:])

    def pads(self, pixels: Tensor) -> bool:
        """Return whether uploaded images are padded for the backbone: no recording can be made of that."""
        return min(pixels.shape[1:3]) < self.network.least_side

    @property
    def kept(self) -> object:
        """Return what the last call read of what is kept between calls, and may be dropped."""
        return self.network.kept

"""A real model that cannot take some images, in a module that workers can import."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from labeler.detectors.batched import BatchedDetector, Results
from labeler.detectors.preprocess import Prepared
from labeler.labeling.recipe import DetectorRecipe


class Deadly(BatchedDetector):
    """The model itself, but that an image which is all black kills it, and one which is all white makes it raise."""

    def begin(self, batch: Sequence[Prepared]) -> Iterator[tuple[list[int], Results]]:
        for image in batch:
            if not image.pixels.any():
                os._exit(1)
            if image.pixels.min() == 255:
                raise RuntimeError(f"cannot look for {image.asked}")
        return super().begin(batch)


@dataclass(frozen=True)
class DeadlyRecipe(DetectorRecipe):
    """Loads `Deadly`."""

    def __call__(self) -> Deadly:
        return Deadly(
            self.find(),
            self.plan,
            model=self.place,
            detect=self.detect,
            threads=self.threads,
            names_per_image=self.names_per_image,
        )

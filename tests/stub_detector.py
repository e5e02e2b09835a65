"""A detector for tests where the detector is not the point: deterministic, instant, and open to mischief."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.detections import Detections


@dataclass
class StubDetector:
    """Finds one box of category 1 in every image, with a score taken from the pixels.

    Attributes:
        seconds: how long each image takes.
        die_on_width: kills its process on images of this width (poison).
        die_once: path of a flag file; the first call anywhere kills its process.
    """

    seconds: float = 0.0
    die_on_width: int | None = None
    die_once: str | None = None

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "stub", "dtype": "float32", "device": "cpu"}

    def prepare(self, image_rgb: Any) -> Any:
        return image_rgb

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections]:
        if self.die_once and not Path(self.die_once).exists():
            Path(self.die_once).touch()
            os._exit(1)
        found = []
        for pixels in batch:
            height, width, _ = pixels.shape
            if width == self.die_on_width:
                os._exit(1)
            time.sleep(self.seconds)
            score = 0.1 + 0.8 * float(np.asarray(pixels, np.float64).mean()) / 255
            found.append(Detections.of([[0, 0, width / 2, height / 2]], [score], [1]))
        return found


@dataclass(frozen=True)
class MakeStub:
    """Picklable recipe of a StubDetector."""

    seconds: float = 0.0
    die_on_width: int | None = None
    die_once: str | None = None

    def __call__(self) -> StubDetector:
        return StubDetector(self.seconds, self.die_on_width, self.die_once)

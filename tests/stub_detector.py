"""A detector for tests where the detector is not the point: deterministic, instant, and open to mischief."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

from labeler.labeling.detector import UnitDetector
from labeler.labels.detections import Detections


@dataclass(frozen=True)
class MakeStub:
    """Picklable recipe of a StubDetector.

    Attributes:
        seconds: how long each image takes.
        die_on_width: kills its process on images of this width.
        die_once: path of a flag file; the first call anywhere kills its process.
        die_rate: share of calls that kill the process, whatever the images.
        hang_on_width: never comes back from images of this width.
        raise_on_width: raises something unexpected at images of this width.
        fail_on_width: has no answer for images of this width.
        log: path of a file that gets a line for each image.
        broken_node: id of a Ray node where no detector can be made.
    """

    seconds: float = 0.0
    die_on_width: int | None = None
    die_once: str | None = None
    die_rate: float = 0.0
    hang_on_width: int | None = None
    raise_on_width: int | None = None
    fail_on_width: int | None = None
    log: str | None = None
    broken_node: str | None = None

    def __call__(self) -> StubDetector:
        if self.broken_node and ray.get_runtime_context().get_node_id() == self.broken_node:
            raise RuntimeError("the driver of this machine's GPU is broken")
        return StubDetector(self)


@dataclass
class StubDetector(UnitDetector):
    """Finds one box of category 1 in every image, with a score taken from the pixels."""

    mischief: MakeStub = field(default_factory=MakeStub)

    @property
    def description(self) -> dict[str, str]:
        return {"engine": "stub", "dtype": "float32", "device": "cpu"}

    def prepare(self, image_rgb: Any, full_size: tuple[int, int] | None = None) -> Any:
        return image_rgb

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections | str]:
        self._maybe_die()
        return [self._detect(pixels) for pixels in batch]

    def _maybe_die(self) -> None:
        mischief = self.mischief
        if mischief.die_once and not Path(mischief.die_once).exists():
            Path(mischief.die_once).touch()
            os._exit(1)
        if mischief.die_rate and int.from_bytes(os.urandom(4)) < mischief.die_rate * 2**32:
            os._exit(1)

    def _detect(self, pixels: Any) -> Detections | str:
        mischief = self.mischief
        height, width, _ = pixels.shape
        if width == mischief.die_on_width:
            os._exit(1)
        if width == mischief.raise_on_width:
            raise RuntimeError(f"no such kernel at {id(pixels):#x}\nand more")
        while width == mischief.hang_on_width:
            time.sleep(1)
        time.sleep(mischief.seconds)
        if mischief.log:
            with open(mischief.log, "ab", buffering=0) as log:
                log.write(b"1\n")
        if width == mischief.fail_on_width:
            return "scores are NaN or infinite"
        score = 0.1 + 0.8 * float(np.asarray(pixels, np.float64).mean()) / 255
        return Detections.of([[0, 0, width / 2, height / 2]], [score], [1])


@dataclass(frozen=True)
class Raises:
    """A detector that raises from the first image of a width on, None: always."""

    error: Exception
    from_width: int | None = None

    def __call__(self) -> RaisingDetector:
        return RaisingDetector(raises=self)


@dataclass
class RaisingDetector(StubDetector):
    raises: Raises = field(kw_only=True)
    damaged: bool = False

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections | str]:
        from_width = self.raises.from_width
        self.damaged |= from_width is None or any(pixels.shape[1] == from_width for pixels in batch)
        if self.damaged:
            raise self.raises.error
        return super().detect_prepared(batch)


@dataclass(frozen=True)
class NoModel:
    """Makes no detector, anywhere."""

    def __call__(self) -> StubDetector:
        raise RuntimeError("no model here")

"""What labeling needs of a segmenter, whichever model it is."""

from __future__ import annotations

from typing import Any, Protocol

from labeler.labels.detections import Detections


class Segmenter(Protocol):
    """The interface of models that make masks for an image's boxes."""

    @property
    def description(self) -> dict[str, str]:
        """Return what is really used; goes into each unit's file metadata beside the detector's."""

    def prepare(self, image_rgb: Any) -> Any:
        """Resize one (h, w, 3) uint8 upright RGB image for the model; thread-safe, on the CPU."""

    @property
    def memory_halvings(self) -> int:
        """Return how often a batch was halved so far because the GPU's memory ran out."""

    def sketch(self, image: Any, detections: Detections) -> Any:
        """Return the model's part of the work, for one prepared image."""

    def draw(self, sketch: Any) -> Any:
        """Return the rest: an object with `detections`, and how many masks were `lost`; thread-safe, on the CPU."""

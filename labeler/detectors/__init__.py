"""Detectors: images in, detections out. The only room that imports torch and transformers, and only on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labeler.detectors.preprocess import DetectError, Prepared

if TYPE_CHECKING:
    from labeler.detectors.grounding_dino.detector import GroundingDino

__all__ = ["DetectError", "GroundingDino", "Prepared"]


def __getattr__(name: str) -> Any:
    if name == "GroundingDino":
        from labeler.detectors.grounding_dino.detector import GroundingDino

        return GroundingDino
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

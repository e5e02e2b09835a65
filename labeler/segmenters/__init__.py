"""Segmenters: an image and its boxes in, masks out. Imports torch and transformers only where a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labeler.segmenters.checkpoint import resolve_segmenter

if TYPE_CHECKING:
    from labeler.segmenters.sam import Sam

__all__ = ["Sam", "resolve_segmenter"]


def __getattr__(name: str) -> Any:
    if name == "Sam":
        from labeler.segmenters.sam import Sam

        return Sam
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Rescorers: an image and its boxes in, a second score of each box out. Imports torch only where a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labeler.rescorers.checkpoint import resolve_rescorer

if TYPE_CHECKING:
    from labeler.rescorers.rescorer import Rescorer

__all__ = ["Rescorer", "resolve_rescorer"]


def __getattr__(name: str) -> Any:
    if name == "Rescorer":
        from labeler.rescorers.rescorer import Rescorer

        return Rescorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

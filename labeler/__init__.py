"""labeler: distributed batch labeling of image shards with an open-vocabulary detector.

`import labeler` loads neither ray nor torch; the names below are fetched from their modules on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Detections": "labeler.labels.detections",
    "GroundingDino": "labeler.detectors",
    "LabelerError": "labeler.errors",
    "Vocabulary": "labeler.vocabulary",
    "decode": "labeler.images",
}

__all__ = ["Detections", "GroundingDino", "LabelerError", "Vocabulary", "__version__", "decode"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'labeler' has no attribute {name!r}")

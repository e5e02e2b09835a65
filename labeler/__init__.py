"""labeler: distributed batch labeling of image shards with an open-vocabulary detector.

`import labeler` does not load ray or torch; the names below are fetched from their modules on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from labeler.api.configuration import as_config
    from labeler.api.detector import Detector
    from labeler.api.jobs import label, preview
    from labeler.api.labeled_run import LabeledRun, open_run
    from labeler.api.results import calibrate, evaluate, export
    from labeler.config import Config
    from labeler.detectors import GroundingDino
    from labeler.errors import Incomplete, InputChanged, LabelerError, Refused, StorageError
    from labeler.images import decode
    from labeler.labels.detections import Detections
    from labeler.vocabulary import Vocabulary

_HOMES = {
    "Config": "labeler.config",
    "Detections": "labeler.labels.detections",
    "Detector": "labeler.api.detector",
    "GroundingDino": "labeler.detectors",
    "Incomplete": "labeler.errors",
    "InputChanged": "labeler.errors",
    "LabeledRun": "labeler.api.labeled_run",
    "LabelerError": "labeler.errors",
    "Refused": "labeler.errors",
    "StorageError": "labeler.errors",
    "Vocabulary": "labeler.vocabulary",
    "as_config": "labeler.api.configuration",
    "calibrate": "labeler.api.results",
    "decode": "labeler.images",
    "evaluate": "labeler.api.results",
    "export": "labeler.api.results",
    "label": "labeler.api.jobs",
    "open_run": "labeler.api.labeled_run",
    "preview": "labeler.api.jobs",
}

__all__ = [
    "Config",
    "Detections",
    "Detector",
    "GroundingDino",
    "Incomplete",
    "InputChanged",
    "LabeledRun",
    "LabelerError",
    "Refused",
    "StorageError",
    "Vocabulary",
    "__version__",
    "as_config",
    "calibrate",
    "decode",
    "evaluate",
    "export",
    "label",
    "open_run",
    "preview",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'labeler' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

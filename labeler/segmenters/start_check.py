"""The check at the start of models that look at boxes: one synthetic image with one box."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from labeler.detectors.agreement import check_picture
from labeler.errors import LabelerError, Refused
from labeler.labels.detections import Detections
from labeler.rescorers.rescorer import Rescorer
from labeler.segmenters.sam import Sam

_BOX = (40.0, 40.0, 200.0, 160.0)  # in the image, which is 320 x 240


def check_segmenter(segmenter: Sam, category_id: int) -> None:
    """Make the mask of one box.

    Args:
        category_id: a category that the model may be asked for.

    Raises:
        Refused: if the model does not run, or gives NaN or infinity.
    """
    name = f"masks.model: checkpoint {segmenter.checkpoint.name}"
    with _refusing(name):
        sketch = segmenter.sketch(segmenter.prepare(check_picture()), _detection(category_id))
        segmenter.draw(sketch)
    _require_finite(name, np.isfinite(sketch.logits).all() and np.isfinite(sketch.quality).all(), "masks")


def check_rescorer(rescorer: Rescorer, category_id: int) -> None:
    """Score one box. Args and Raises: as of `check_segmenter`."""
    name = f"rescore.model: checkpoint {rescorer.checkpoint.name}"
    with _refusing(name):
        found = rescorer.rescore(check_picture(), _detection(category_id))
    _require_finite(name, np.isfinite(found.more["score2"]).all(), "scores")


def _detection(category_id: int) -> Detections:
    return Detections.of([_BOX], [1.0], [category_id])


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Raise errors of a model whose config does not fit its weights as a refusal."""
    try:
        yield
    except (LabelerError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Refused(f"{name} does not run: {reason}") from error


def _require_finite(name: str, finite: object, what: str) -> None:
    if not finite:
        raise Refused(f"{name} gives {what} with NaN or infinity; are its weights whole?")

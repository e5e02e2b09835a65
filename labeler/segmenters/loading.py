"""Load a segmenter's model, as the detectors' loading does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from labeler.checkpoints import Checkpoint
from labeler.detectors.loading import load_model

VIDEOS = ("sam2_video", "sam3_video")


def load_segmenter(checkpoint: Checkpoint, device: torch.device) -> Any:
    """The checkpoint's transformers model on `device`, float32 and in eval mode. Refused as by `load_model`."""
    with _no_word_about_videos():
        return load_model(checkpoint, device, buffers=True)


@contextmanager
def _no_word_about_videos() -> Iterator[None]:
    """Transformers warns whoever takes the image model out of a video checkpoint: all published ones of SAM 2 and 3."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(tuple(f"You are using a model of type `{t}`" for t in VIDEOS))

    logger = logging.getLogger("transformers.configuration_utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)

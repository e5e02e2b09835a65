"""A configuration becomes a job: what its fingerprint says, and what its detector is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeler.config import make_config
from labeler.job import Job, detector_recipe, resolve_job


def job(checkpoint: Path, **detect: Any) -> Job:
    values = {"input": "in", "output": "out", "vocabulary": ["cat", "dog"], "model": {"name": str(checkpoint)}}
    return resolve_job(make_config({**values, "detect": detect}))


@pytest.mark.parametrize(
    ("detect", "kernel"),
    [
        ({}, "pillow-bilinear"),
        ({"resize": "torch"}, "torch-uint8-bilinear"),
        ({"jpeg_draft": True}, "jpeg-draft, pillow-bilinear"),
        ({"jpeg_draft": True, "resize": "torch"}, "jpeg-draft, torch-uint8-bilinear"),
    ],
)
def test_how_images_are_made_small_is_in_the_fingerprint(checkpoint: Path, detect: dict[str, Any], kernel: str) -> None:
    plain, other = job(checkpoint), job(checkpoint, **detect)
    assert other.fields["resize_kernel"] == kernel
    assert {name for name in plain.fields if plain.fields[name] != other.fields[name]} <= {"resize_kernel"}


def test_the_detector_is_told_how_to_make_images_small(checkpoint: Path) -> None:
    plain = detector_recipe(job(checkpoint))()
    other = detector_recipe(job(checkpoint, resize="torch", jpeg_draft=True), threads=1)()
    assert (plain.preprocessing.resize, plain.least_shape) == ("pillow", None)
    assert other.preprocessing.resize == "torch"
    assert other.least_shape(3000, 4000) == other.preprocessing.target_shape(3000, 4000)

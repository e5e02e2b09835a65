"""Models beside the detector: masks for boxes, and second scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from labeler.config.section import S3Config, Section


class MasksConfig(Section):
    """A mask for each of an image's best boxes, by a model of the SAM family. Without this section, no masks."""

    model: str
    """A SAM, SAM-HQ, SAM 2, SAM 2.1 or SAM 3 checkpoint: a Hub ID, a local folder or a URI."""
    revision: str | None = None
    """The Hub revision: a branch, tag or commit. By default, the main branch."""
    threshold: float = Field(0.25, ge=0, le=1)
    """Only boxes with at least this score get a mask."""
    max_masks: int = Field(100, ge=0)
    """The most masks per image, for the best boxes. 0 means no limit."""
    boxes_per_batch: int | None = Field(None, gt=0)
    """The number of boxes in one forward pass. By default, the device decides."""
    s3: S3Config = S3Config()
    """Access to the bucket of a checkpoint on s3://."""


def _with_a_place(templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Templates as they are; ValueError unless the name has one place in each."""
    if templates is not None and (not templates or any(template.count("{}") != 1 for template in templates)):
        raise ValueError("give one or more texts with {} once in each, where the name goes")
    return templates


class RescoreConfig(Section):
    """A second score for each box of a complete run, by CLIP or SigLIP. Only `labeler rescore` reads this section."""

    model: str
    """A CLIP, SigLIP or SigLIP 2 (fixed resolution) checkpoint: a Hub ID, a local folder or a URI."""
    revision: str | None = None
    """The Hub revision: a branch, tag or commit. By default, the main branch."""
    margin: float = Field(0.1, ge=0, le=2)
    """The margin that a crop adds on each side of the box, as a part of the box's width and height."""
    templates: Annotated[tuple[str, ...] | None, AfterValidator(_with_a_place)] = None
    """Texts such as `a photo of a {}`. The embedding of a name is the mean over them; by default, `a photo of a {}`
    alone."""
    background: tuple[str, ...] | None = None
    """CLIP: texts that compete with the categories for each box. By default, `background`."""
    boxes_per_batch: int | None = Field(None, gt=0)
    """The number of crops in one forward pass. By default, the device decides."""
    s3: S3Config = S3Config()
    """Access to the bucket of a checkpoint on s3://."""

"""Mask: a derived run that gives masks to the boxes of a complete run; the detector is not asked again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from labeler.errors import Refused
from labeler.labeling.fingerprint import masks_fields
from labeler.labeling.resolve import Job, mask_phrases, resolve_masks, s3_rules
from labeler.pipeline.derive import config_of, derive, derived_fields
from labeler.pipeline.session import Outcome
from labeler.runs import Run

STATUSES = ("labeled",)
MAY_DIFFER = ("masks.", "ray.", "model.device=", "model.dtype=", "detect.stall_timeout_s=", "output.")


def mask(parent: Run, output: str, *, overrides: Sequence[str], console: Console | None = None) -> Outcome | None:
    """Masks for a run's stored boxes, by the model that `masks.model=` names, into a derived run.

    Args:
        overrides: `section.key=value`, `masks.model` among them unless the run has it already.

    Returns:
        None where no image has a box, and nothing was written.

    Raises:
        Refused: no segmenter is named, an override is about something that a mask run does not do, or as `derive`.
        Incomplete: as `label`.
    """
    for override in overrides:
        if not override.strip().startswith(MAY_DIFFER):
            raise Refused(f"{override!r} decides nothing about masks; what can be set here: {', '.join(MAY_DIFFER)}")
    parent.require_reader()
    config = config_of(parent, output, overrides)
    s3_rules(config, parent.lineage).apply()
    segmenter = resolve_masks(config)
    if segmenter is None:
        raise Refused("no model makes masks: name one of the SAM family, masks.model=facebook/sam2.1-hiera-small")
    phrases = mask_phrases(config, segmenter, parent.vocabulary())
    recorded = parent.manifest.fingerprint_fields
    boxes = {name: value for name, value in recorded.items() if name != "masks" and not name.startswith("masks.")}
    fields = derived_fields(parent, boxes | masks_fields(config, segmenter, phrases), STATUSES)
    job = Job(config, parent.vocabulary(), parent.prompts(), None, fields, segmenter, phrases, parent.lineage)
    return derive(parent, job, STATUSES, keep_detections=True, console=console)

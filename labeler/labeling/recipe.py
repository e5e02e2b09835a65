"""How a job's models are loaded, wherever that is: what a worker is handed instead of the models."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from labeler import storage
from labeler.checkpoints import Checkpoint, resolve
from labeler.errors import Refused
from labeler.labeling.resolve import Job, model_uri, s3_rules
from labeler.labeling.unit import Detector, Segmenter
from labeler.prompts import PromptPlan
from labeler.prompts.grounding_dino import Prompts
from labeler.segmenters import resolve_segmenter


@dataclass(frozen=True)
class DetectorRecipe:
    """Loads the job's detector wherever it is called: picklable, so that Ray can carry it to the workers."""

    model: str
    revision: str | None
    digest: str
    plan: PromptPlan
    options: dict[str, Any]
    s3: storage.S3Rules = storage.NO_S3_RULES

    def __call__(self) -> Detector:
        from labeler.detectors import GroundingDino  # imports torch and transformers: only where a model is loaded

        self.s3.apply()
        checkpoint = resolve(self.model, revision=self.revision)
        _require_digest(checkpoint, self.digest)
        assert isinstance(self.plan, Prompts)
        return GroundingDino(checkpoint, self.plan, **self.options)


@dataclass(frozen=True)
class SegmenterRecipe:
    """Loads the job's segmenter wherever it is called: picklable, as the detector's."""

    model: str
    revision: str | None
    digest: str
    options: dict[str, Any]
    s3: storage.S3Rules = storage.NO_S3_RULES

    def __call__(self) -> Segmenter:
        from labeler.segmenters import Sam

        self.s3.apply()
        checkpoint = resolve_segmenter(self.model, revision=self.revision)
        _require_digest(checkpoint, self.digest)
        return Sam(checkpoint, **self.options)


def _require_digest(checkpoint: Checkpoint, planned: str) -> None:
    if checkpoint.digest != planned:
        raise Refused(
            f"checkpoint {checkpoint.name} on node {platform.node()} has digest {checkpoint.digest}, the run was "
            f"planned with {planned}; put the same files on every node, or name an object-storage URL"
        )


def detector_recipe(job: Job, *, threads: int | None = None) -> DetectorRecipe:
    """How to load the job's detector on a worker with `threads` CPU threads."""
    detect, model = job.config.detect, job.config.model
    return DetectorRecipe(
        model=model_uri(job.config.model_name),
        revision=job.detector.revision or model.revision,
        digest=job.detector.digest,
        plan=job.plan,
        s3=s3_rules(job.config, job.own),
        options={
            "device": model.device,
            "dtype": model.dtype,
            "engine": model.engine,
            "score_floor": detect.score_floor,
            "max_detections": detect.max_detections,
            "assignment": detect.assignment,
            "score": detect.score,
            "nms_iou": detect.nms_iou,
            "image_size": job.rule.size,
            "resize": detect.resize,
            "jpeg_draft": detect.jpeg_draft,
            "pairs_per_batch": detect.pairs_per_batch,
            "cuda_graphs": detect.cuda_graphs,
            "threads": threads,
        },
    )


def segmenter_recipe(job: Job, *, threads: int | None = None) -> SegmenterRecipe | None:
    """How to load the job's segmenter on a worker, on the detector's device; None where no masks are made."""
    masks, model = job.config.masks, job.config.model
    if masks is None or job.segmenter is None:
        return None
    return SegmenterRecipe(
        model=model_uri(masks.model),
        revision=job.segmenter.revision or masks.revision,
        digest=job.segmenter.digest,
        s3=s3_rules(job.config, job.own),
        options={
            "device": model.device,
            "dtype": model.dtype,
            "threshold": masks.threshold,
            "max_masks": masks.max_masks,
            "boxes_per_batch": masks.boxes_per_batch,
            "threads": threads,
        },
    )

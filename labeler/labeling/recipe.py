"""How a job's models are loaded, wherever that is: what a worker is handed instead of the models."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from labeler import storage
from labeler.checkpoints import Checkpoint, DetectorCheckpoint, model_uri, resolve
from labeler.config import DetectConfig, ModelConfig
from labeler.digests import as_stored
from labeler.errors import Refused
from labeler.images import MAX_PIXELS, choose_fast_jpeg
from labeler.images.tiling import Tiling
from labeler.labeling.detector import UnitDetector
from labeler.labeling.resolve import Job, s3_rules
from labeler.labeling.segmenter import Segmenter
from labeler.labeling.unit import UnitLabeler
from labeler.labeling.watchdog import Watchdog
from labeler.machine import decode_bytes, worker_threads
from labeler.prompts import Family, ModuleFamily, PromptPlan, UserModule, register
from labeler.rescorers import resolve_rescorer
from labeler.rescorers.checkpoint import RescorerCheckpoint
from labeler.rescorers.texts import Texts
from labeler.segmenters import resolve_segmenter
from labeler.segmenters.checkpoint import SegmenterCheckpoint
from labeler.vocabulary import Vocabulary

if TYPE_CHECKING:
    from labeler.detectors.batched import BatchedDetector

Found = TypeVar("Found", bound=Checkpoint)


@dataclass(frozen=True)
class DetectorRecipe:
    """A recipe for the job's detector, which loads where it is called: picklable, so that Ray can carry it to the
    workers.

    Attributes:
        family: of the checkpoint; carried, because a worker has not imported every module that defines one.
        digest: that the checkpoint has to have there, too.
        place: what the model runs on, and how.
        only: as of `Job`.
        names_per_image: as of `BatchedDetector`.
    """

    family: Family
    name: str
    revision: str | None
    digest: str
    plan: PromptPlan
    place: ModelConfig
    detect: DetectConfig
    threads: int | None = None
    s3: storage.S3Rules = storage.NO_S3_RULES
    only: tuple[int, ...] | None = None
    names_per_image: bool = False

    def find(self) -> DetectorCheckpoint:
        """Return the checkpoint as it is found here. Refused where it is not, or is another."""
        self.s3.apply()
        register(self.family)
        return _of_digest(resolve(self.name, revision=self.revision), self.digest)

    def __call__(self) -> BatchedDetector:
        # Imports torch and transformers: only where a model is loaded.
        from labeler.detectors.batched import BatchedDetector

        checkpoint = self.find()
        return BatchedDetector(
            checkpoint,
            self.plan,
            model=self.place,
            detect=self.detect,
            threads=self.threads,
            only=self.only,
            names_per_image=self.names_per_image,
        )


@dataclass(frozen=True)
class ModuleRecipe:
    """A recipe for a user's detector, which loads where it is called: picklable, without anything of its module.

    Attributes:
        digest: that the checkpoint has to have there, too.
        prompts: the plan, as prompts.json has it.
        vocabulary, place, detect: of the job.
    """

    module: UserModule
    name: str
    revision: str | None
    digest: str
    prompts: dict[str, Any]
    vocabulary: Vocabulary
    place: ModelConfig
    detect: DetectConfig
    threads: int | None = None
    s3: storage.S3Rules = storage.NO_S3_RULES

    def find(self) -> DetectorCheckpoint:
        """Return the checkpoint as it is found here. Refused where it is not, or is another."""
        self.s3.apply()
        return _of_digest(resolve(self.name, revision=self.revision, module=self.module), self.digest)

    def __call__(self) -> UnitDetector:
        # Imports torch and transformers: only where a model is loaded.
        from labeler.detectors.batched import BatchedDetector
        from labeler.detectors.user_detector import UserDetector

        checkpoint = self.find()
        settings: dict[str, Any] = {"model": self.place, "detect": self.detect, "threads": self.threads}
        if isinstance(checkpoint.family, ModuleFamily):
            return UserDetector(checkpoint, self.module, self.vocabulary, **settings)
        return BatchedDetector(checkpoint, checkpoint.family.plan_from_json(self.prompts), **settings)


@dataclass(frozen=True)
class SegmenterRecipe:
    """A recipe for the job's segmenter: picklable, as the detector's."""

    model: str
    revision: str | None
    digest: str
    options: dict[str, Any]
    s3: storage.S3Rules = storage.NO_S3_RULES

    def find(self) -> SegmenterCheckpoint:
        """Return the checkpoint as it is found here. Refused where it is not, or is another."""
        self.s3.apply()
        return _of_digest(resolve_segmenter(self.model, revision=self.revision), self.digest)

    def __call__(self) -> Segmenter:
        from labeler.segmenters import Sam
        from labeler.segmenters.start_check import check_segmenter

        segmenter, phrases = Sam(self.find(), **self.options), self.options.get("phrases")
        check_segmenter(segmenter, phrases.phrases[0].category_id if phrases else 1)
        return segmenter


@dataclass(frozen=True)
class RescorerRecipe:
    """A recipe for the job's rescorer: picklable, as the detector's, which it replaces."""

    model: str
    revision: str | None
    digest: str
    texts: Texts
    options: dict[str, Any]
    threads: int | None = None
    s3: storage.S3Rules = storage.NO_S3_RULES

    def find(self) -> RescorerCheckpoint:
        """Return the checkpoint as it is found here. Refused where it is not, or is another."""
        self.s3.apply()
        return _of_digest(resolve_rescorer(self.model, revision=self.revision), self.digest)

    def __call__(self) -> UnitDetector:
        from labeler.rescorers import Rescorer
        from labeler.segmenters.start_check import check_rescorer

        rescorer = Rescorer(self.find(), self.texts, threads=self.threads, **self.options)
        check_rescorer(rescorer, self.texts.category_ids[0])
        return rescorer


@dataclass(frozen=True)
class LabelerRecipe:
    """A recipe for the unit labeler of a process: picklable, as its models' recipes.

    Attributes:
        make_detector: loads the detector; None where every image comes with its detections.
        make_segmenter: loads what makes masks; None where none are made.
        decode_threads, images_per_batch, max_pixels: as of `UnitLabeler`.
        jpeg_decoder: as of `DetectConfig`.
        tiling: as of `UnitLabeler`.
    """

    make_detector: Callable[[], UnitDetector] | None
    make_segmenter: Callable[[], Segmenter] | None = None
    decode_threads: int = 1
    images_per_batch: int | None = None
    max_pixels: int = MAX_PIXELS
    jpeg_decoder: str = "auto"
    tiling: Tiling | None = None

    def find(self) -> None:
        """Find the job's checkpoints, and fetch those that have to be; load nothing. Refused where one is not here."""
        for make in (self.make_segmenter, self.make_detector):
            if isinstance(make, DetectorRecipe | ModuleRecipe | RescorerRecipe | SegmenterRecipe):
                make.find()

    @property
    def of_boxes(self) -> LabelerRecipe | None:
        """Only the model that looks at boxes: the segmenter, or the rescorer; None where there is none."""
        if self.make_segmenter is not None:
            return replace(self, make_detector=None)
        return self if isinstance(self.make_detector, RescorerRecipe) else None

    def __call__(self, watchdog: Watchdog | None = None) -> UnitLabeler:
        segmenter = self.make_segmenter() if self.make_segmenter else None
        # The detector comes second: it tries how much of the GPU's memory it can use.
        detector = self.make_detector() if self.make_detector else None
        return UnitLabeler(
            detector,
            decode_threads=self.decode_threads,
            images_per_batch=self.images_per_batch,
            max_pixels=self.max_pixels,
            decode_bytes=decode_bytes(threads=self.decode_threads),
            watchdog=watchdog,
            segmenter=segmenter,
            fast_jpeg=choose_fast_jpeg(self.jpeg_decoder),
            tiling=self.tiling,
        )

    def with_threads(self, threads: int) -> LabelerRecipe:
        """Return the same for a process with this number of CPU threads."""
        detector, segmenter = self.make_detector, self.make_segmenter
        if isinstance(detector, DetectorRecipe | ModuleRecipe | RescorerRecipe):
            detector = replace(detector, threads=threads)
        if isinstance(segmenter, SegmenterRecipe):
            segmenter = replace(segmenter, options={**segmenter.options, "threads": threads})
        return replace(self, make_detector=detector, make_segmenter=segmenter, decode_threads=threads)


def _of_digest(checkpoint: Found, planned: str) -> Found:
    if checkpoint.digest != planned:
        raise Refused(
            f"checkpoint {checkpoint.name} on node {platform.node()} has digest {checkpoint.digest}, the run was "
            f"planned with {planned}; put the same files on every node, or name an object-storage URL"
        )
    return checkpoint


def detector_recipe(job: Job, *, threads: int | None = None) -> DetectorRecipe | ModuleRecipe:
    """Return how to load the job's detector on a worker with `threads` CPU threads."""
    config, checkpoint = job.config, job.detector
    settings: dict[str, Any] = {
        "name": model_uri(config.model_name),
        "revision": checkpoint.revision or config.model.revision,
        "digest": checkpoint.digest,
        "place": config.model,
        "detect": config.detect,
        "threads": threads,
        "s3": s3_rules(config, job.own),
    }
    if checkpoint.module is None:
        settings |= {"only": job.only, "names_per_image": job.per_image is not None}
        return DetectorRecipe(family=checkpoint.family, plan=job.plan, **settings)
    prompts = as_stored(job.plan.to_json())
    return ModuleRecipe(module=checkpoint.module, prompts=prompts, vocabulary=job.vocabulary, **settings)


def segmenter_recipe(job: Job, *, threads: int | None = None) -> SegmenterRecipe | None:
    """Return how to load the job's segmenter on a worker, on the detector's device; None where no masks are made."""
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
            "phrases": job.mask_phrases,
        },
    )


def rescorer_recipe(job: Job, *, threads: int | None = None) -> RescorerRecipe | None:
    """Return how to load the job's rescorer on a worker, on the detector's device; None where nothing is rescored."""
    rescore, model = job.config.rescore, job.config.model
    if rescore is None or job.rescorer is None or job.texts is None:
        return None
    options = {"margin": rescore.margin, "device": model.device, "dtype": model.dtype}
    return RescorerRecipe(
        model=model_uri(rescore.model),
        revision=job.rescorer.revision or rescore.revision,
        digest=job.rescorer.digest,
        texts=job.texts,
        options={**options, "boxes_per_batch": rescore.boxes_per_batch},
        threads=threads,
        s3=s3_rules(job.config, job.own),
    )


def labeler_recipe(
    job: Job, *, threads: int = 1, make_detector: Callable[[], UnitDetector] | None = None, masks: bool = True
) -> LabelerRecipe:
    """Return how to make what labels the job's units in a process with `threads` CPU threads.

    Args:
        make_detector: in the place of the job's own.
        masks: False leaves them out.
    """
    return LabelerRecipe(
        make_detector
        or (detector_recipe(job, threads=threads) if job.checkpoint else rescorer_recipe(job, threads=threads)),
        segmenter_recipe(job, threads=threads) if masks else None,
        decode_threads=threads,
        images_per_batch=job.config.detect.images_per_batch,
        max_pixels=job.config.detect.max_pixels,
        jpeg_decoder=job.config.detect.jpeg_decoder,
        tiling=job.config.detect.tiling if job.rescorer is None else None,
    )


def labeler_here(job: Job, *, masks: bool = True) -> UnitLabeler:
    """Return what labels the job's images in this process, with the CPU threads of one worker, without Ray."""
    return labeler_recipe(job, threads=worker_threads(job.config.ray.cpus_per_worker), masks=masks)()

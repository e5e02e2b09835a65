"""A job: a configuration with everything it names found and checked, before any GPU is taken."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.checkpoints import Checkpoint, resolve
from labeler.checkpoints.library import check_transformers
from labeler.config import Config, DetectConfig
from labeler.errors import LabelerError, Refused
from labeler.labeling.unit import Detector, Segmenter
from labeler.labels.records import DECODING_VERSION, LABELS, SCHEMA_VERSION
from labeler.prompts import Prompts, check, pack
from labeler.prompts.tokenizer import Tokenizer
from labeler.runs.plan import PlannedShard
from labeler.segmenters import resolve_segmenter
from labeler.segmenters.preprocess import Preprocessing
from labeler.shards import READER_VERSION, Shard, count_images, find_shards
from labeler.vocabulary import Vocabulary

# Raise when the same image, boxes and model would give other masks: resizing, margins, thresholds.
MASKS_VERSION = 1
RESIZE_KERNELS = {"pillow": "pillow-bilinear", "torch": "torch-uint8-bilinear"}
_COUNTING_REQUESTS = 32
_SHOWN_DOUBTS = 5
log = logging.getLogger(__name__)

_VERSIONED = ("labeler", "ray", "torch", "transformers", "pyarrow", "numpy", "pillow")


@dataclass(frozen=True)
class Job:
    """What a run is made of.

    Attributes:
        fields: the fingerprint's fields, one by one; runs with equal ones have equal rows.
        checkpoint: of the detector; None where nothing is detected.
        segmenter: the checkpoint that makes masks, None where none are made.
        own: run folders that it derives from.
    """

    config: Config
    vocabulary: Vocabulary
    prompts: Prompts
    checkpoint: Checkpoint | None
    image_size: tuple[int, int]  # (shortest edge, longest edge)
    fields: dict[str, Any]
    segmenter: Checkpoint | None = None
    own: tuple[str, ...] = ()

    @property
    def detector(self) -> Checkpoint:
        """The checkpoint of a job that detects."""
        assert self.checkpoint is not None, "only boxes of another run are worked on"
        return self.checkpoint


@dataclass(frozen=True)
class DetectorRecipe:
    """Loads the job's detector wherever it is called: picklable, so that Ray can carry it to the workers."""

    model: str
    revision: str | None
    digest: str
    prompts: Prompts
    options: dict[str, Any]
    s3: storage.S3Rules = storage.NO_S3_RULES

    def __call__(self) -> Detector:
        from labeler.detectors import GroundingDino  # imports torch and transformers: only where a model is loaded

        self.s3.apply()
        checkpoint = resolve(self.model, revision=self.revision)
        _require_digest(checkpoint, self.digest)
        return GroundingDino(checkpoint, self.prompts, **self.options)


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


def _warn_of(doubts: Sequence[str]) -> None:
    for doubt in doubts[:_SHOWN_DOUBTS]:
        log.warning("vocabulary: %s", storage.printable(doubt))
    if len(doubts) > _SHOWN_DOUBTS:
        log.warning("and %d more; `labeler vocabulary check` shows all", len(doubts) - _SHOWN_DOUBTS)


def _require_digest(checkpoint: Checkpoint, planned: str) -> None:
    if checkpoint.digest != planned:
        raise Refused(
            f"checkpoint {checkpoint.name} on node {platform.node()} has digest {checkpoint.digest}, the run was "
            f"planned with {planned}; put the same files on every node, or name an object-storage URL"
        )


def resolve_job(config: Config, vocabulary: Vocabulary | None = None, own: Sequence[str] = ()) -> Job:
    """Find and check vocabulary, checkpoint and prompts of a configuration.

    Args:
        vocabulary: that of a run, in the place of what the configuration names.
        own: as of `Job`.

    Raises:
        Refused: anything is missing, unreadable or contradictory; nothing has been written.
    """
    check_transformers()
    s3_rules(config, own).apply()
    model_name = _model_uri(config.model_name)
    clash = sorted(set(config.input.keep) & set(LABELS.names))
    if clash:
        raise Refused(f"input.keep: {clash[0]!r} is the name of a labels column; rename it in the input")
    _check_drafts(config)
    limits = config.prompts
    light = resolve(model_name, revision=config.model.revision, weights=False)  # so that names fail before a download
    resolve_masks(config, weights=False)
    tokenizer = Tokenizer.load(light.folder)
    if vocabulary is None:
        vocabulary = Vocabulary.load(
            vocabulary_spec(config), also=lambda sound: check(sound, tokenizer, limits.max_tokens).problems
        )
        _warn_of(vocabulary.doubts)
    prompts = pack(vocabulary, tokenizer, max_tokens=limits.max_tokens, max_categories=limits.max_categories)
    checkpoint = resolve(model_name, revision=config.model.revision)
    segmenter = resolve_masks(config)
    size = config.detect.image_size
    image_size = (size.shortest_edge, size.longest_edge) if size else checkpoint.image_size
    fields = _fingerprint_fields(config, vocabulary, prompts, checkpoint, tokenizer, image_size)
    fields |= masks_fields(config, segmenter)
    return Job(config, vocabulary, prompts, checkpoint, image_size, fields, segmenter, tuple(own))


def _model_uri(name: str) -> str:
    return storage.absolute_uri(name) if Path(name).exists() else name


def s3_rules(config: Config, own: Sequence[str] = ()) -> storage.S3Rules:
    """How each S3 bucket that the job reads is read; for every process that reads.

    Args:
        own: runs that it derives from, which are not read as the input is.
    """
    named = config.vocabulary if isinstance(config.vocabulary, str) else ""
    checkpoints = {config.model.name: config.model.s3} if config.model.name else {}
    checkpoints |= {config.masks.model: config.masks.s3} if config.masks else {}
    return storage.input_rules(
        config.input_uris,
        config.input.s3.model_dump(),
        own=(config.output.uri, *own, *config.input.exclude, named),
        checkpoints={uri: storage.S3Access(**s3.model_dump()) for uri, s3 in checkpoints.items()},
    )


def resolve_masks(config: Config, *, weights: bool = True) -> Checkpoint | None:
    """The checkpoint that makes masks, None where the config asks for none. Refused where it is unusable."""
    masks = config.masks
    if masks is None:
        return None
    checkpoint = resolve_segmenter(_model_uri(masks.model), revision=masks.revision, weights=weights)
    Preprocessing.of(checkpoint)  # settings that do not fit the model are refused here, too
    return checkpoint


def vocabulary_spec(config: Config) -> Any:
    """The config's vocabulary as `Vocabulary.load` takes it."""
    spec = config.vocabulary
    return list(spec) if isinstance(spec, tuple) else spec


def _fingerprint_fields(
    config: Config,
    vocabulary: Vocabulary,
    prompts: Prompts,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    image_size: tuple[int, int],
) -> dict[str, Any]:
    detect, unit = config.detect, config.unit
    return {
        "model": checkpoint.digest,
        "tokenizer": tokenizer.digest,
        "vocabulary": vocabulary.fingerprint,
        "prompts": prompts.fingerprint,
        "decoding_version": DECODING_VERSION,
        "image_size": list(image_size),
        "resize_kernel": resize_kernel(detect),
        "detect.max_pixels": detect.max_pixels,
        "detect.score": detect.score,
        "detect.assignment": detect.assignment,
        "detect.score_floor": detect.score_floor,
        "detect.max_detections": detect.max_detections,
        "detect.nms_iou": detect.nms_iou,
        "unit.max_images": unit.max_images,
        "unit.max_bytes": unit.max_bytes,
        "unit.max_image_bytes": unit.max_image_bytes,
        "input.keep": list(config.input.keep),
        "input.image_column": config.input.image_column,
        "reader_version": READER_VERSION,
        "schema_version": SCHEMA_VERSION,
    }


def masks_fields(config: Config, segmenter: Checkpoint | None) -> dict[str, Any]:
    """The fingerprint's fields about masks; `masks` is the model's digest, or None where none are made."""
    if config.masks is None or segmenter is None:
        return {"masks": None}
    return {
        "masks": segmenter.digest,
        "masks.threshold": config.masks.threshold,
        "masks.max_masks": config.masks.max_masks,
        "masks.version": MASKS_VERSION,
    }


def _check_drafts(config: Config) -> None:
    """Refused where pixels are left out that masks need."""
    if config.masks is not None and config.detect.jpeg_draft:
        raise Refused("masks need every pixel of an image: leave detect.jpeg_draft out, or make them with labeler mask")


def resize_kernel(detect: DetectConfig) -> str:
    """How an image comes to the detector's size, for the fingerprint: scores depend on it."""
    kernel = RESIZE_KERNELS[detect.resize]
    return f"jpeg-draft, {kernel}" if detect.jpeg_draft else kernel


def detector_recipe(job: Job, *, threads: int | None = None) -> DetectorRecipe:
    """How to load the job's detector on a worker with `threads` CPU threads."""
    detect, model = job.config.detect, job.config.model
    return DetectorRecipe(
        model=_model_uri(job.config.model_name),
        revision=job.detector.revision or model.revision,
        digest=job.detector.digest,
        prompts=job.prompts,
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
            "image_size": job.image_size,
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
        model=_model_uri(masks.model),
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


def plan_input(
    config: Config,
    *,
    known: Collection[str] = (),
    taken: Collection[str] = (),
    first_id: int = 0,
    counts: Counter[str] | None = None,
) -> list[PlannedShard]:
    """List the input and cut it into shards, leaving out the `known` URIs of an earlier plan.

    Args:
        taken: names of that plan's shards.
        counts: gets, by extension, the number of files that are not part of the input.

    Raises:
        Refused: there is no image in it, or it cannot be read.
    """
    source = config.input
    found = find_shards(
        [storage.absolute_uri(uri) for uri in config.input_uris],
        format=source.format,
        limit=source.limit,
        images_per_group=source.images_per_shard,
        image_column=source.image_column,
        skip_without_images=source.skip_without_images,
        known=known,
        taken=taken,
        first_id=first_id,
        counts=counts,
    )
    with ThreadPoolExecutor(_COUNTING_REQUESTS) as pool:  # Parquet footers are a request each
        return [PlannedShard(*pair) for pair in zip(found, pool.map(_count, found), strict=True)]


def _count(shard: Shard) -> int | None:
    """Images of a shard where that is cheap; a shard that cannot be read is named later, when its turn comes."""
    try:
        return count_images(shard)
    except LabelerError:
        return None


def public_config(config: Config) -> dict[str, Any]:
    """The resolved configuration for run.json, without secrets in its URIs, wherever in it they stand."""
    values: dict[str, Any] = _redacted(config.model_dump(mode="json"))
    values["input"]["uri"] = [storage.redact(storage.absolute_uri(uri)) for uri in config.input_uris]
    values["output"]["uri"] = storage.redact(storage.absolute_uri(config.output.uri))
    return values


def _redacted(value: Any) -> Any:
    """Plain data with every text in it redacted."""
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return storage.redact(value) if isinstance(value, str) else value


def package_versions(names: Sequence[str] = _VERSIONED) -> dict[str, str]:
    """Versions of the interpreter and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # shipped as a working directory, not installed
    return found

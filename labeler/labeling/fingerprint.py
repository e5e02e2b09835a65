"""Contents of run.json for a job: the fields that affect its results, its configuration, the versions it runs with."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

from labeler import __version__, storage
from labeler.checkpoints import Checkpoint, DetectorCheckpoint, model_uri
from labeler.config import OF_TILES, ROWS, Config, DetectConfig, RescoreConfig, marked
from labeler.labels.extensions import schema_fields
from labeler.labels.records import DECODING_VERSION
from labeler.prompts import Family, ImageRule, Planner, PromptPlan, UserModule
from labeler.prompts.families import DEFAULT
from labeler.shards import READER_VERSION
from labeler.vocabulary import Vocabulary

# Raise when the same image, boxes and model would give other masks: resizing, margins, thresholds.
MASKS_VERSION = 1
# Raise when the same image, boxes and model would give other second scores: crops, resizing, the score itself.
RESCORE_VERSION = 1
# Raise when the same tiles would give other rows: where they are, which of their boxes count.
TILING_VERSION = 1
RESIZE_KERNELS = {"pillow": "pillow-bilinear", "torch": "torch-uint8-bilinear"}
DEVICE_KERNEL = "torch-gaussian-linear"
_NAMES = ("from", "from_score")  # options that a run without them does not record
_VERSIONED = ("labeler", "ray", "torch", "transformers", "pyarrow", "numpy", "pillow")


def fingerprint_fields(
    config: Config, vocabulary: Vocabulary, plan: PromptPlan, planner: Planner, checkpoint: DetectorCheckpoint
) -> dict[str, Any]:
    """Return the fingerprint's fields about what is detected, one by one; runs with equal ones have equal boxes."""
    rule = rule_of(config, checkpoint)
    return {
        "model": checkpoint.digest,
        **family_fields(checkpoint.family),
        **module_fields(config, checkpoint.module),
        **planner.digests,
        "vocabulary": vocabulary.fingerprint,
        "prompts": plan.fingerprint,
        "decoding_version": DECODING_VERSION,
        "image_size": list(rule.size),
        "resize_kernel": resize_kernel(config.detect, rule),
        **{f"detect.{name}": value for name, value in marked(config.detect, ROWS).items()},
        **tile_fields(config.detect),
        "unit.max_images": config.unit.max_images,
        "unit.max_bytes": config.unit.max_bytes,
        "unit.max_image_bytes": config.unit.max_image_bytes,
        "input.keep": list(config.input.keep),
        "input.image_column": config.input.image_column,
        "reader_version": READER_VERSION,
        **schema_fields(()),
    }


def family_fields(family: Family) -> dict[str, Any]:
    """Return the fields that only other families than Grounding DINO have: its runs were written without, and stay the
    same.

    (`Run.require_fingerprint` compares every field that either side has.)
    """
    return {} if family == DEFAULT else {"family": family.name, "family_version": family.version}


def module_fields(config: Config, module: UserModule | None) -> dict[str, Any]:
    """Return the fields that only runs with a detector of the user's own have."""
    if module is None:
        return {}
    return {
        "family": module.name,
        "family_version": module.version,
        "family_source": module.digest,
        "model.options": config.model.options,
    }


def tile_fields(detect: DetectConfig) -> dict[str, Any]:
    """Return the fields that only runs with tiles have."""
    tiling = detect.tiling
    if tiling is None:
        return {}
    said = detect.model_copy(update={"tile_min_side": tiling.min_side})
    fields = {f"detect.{name}": value for name, value in marked(said, OF_TILES).items()}
    return {**fields, "tiling_version": TILING_VERSION}


def rule_of(config: Config, checkpoint: DetectorCheckpoint) -> ImageRule:
    """Return how the images of a job are made ready. Refused where the configured size does not go with the model."""
    size = config.detect.image_size
    return checkpoint.rule.with_edges(size.edges if size else None)


def masks_fields(config: Config, segmenter: Checkpoint | None, phrases: PromptPlan | None = None) -> dict[str, Any]:
    """Return the fingerprint's fields about masks; `masks` is the model's digest, or None where none are made."""
    if config.masks is None or segmenter is None:
        return {"masks": None}
    return {
        "masks": segmenter.digest,
        "masks.threshold": config.masks.threshold,
        "masks.max_masks": config.masks.max_masks,
        "masks.version": MASKS_VERSION,
        **({"masks.prompts": phrases.fingerprint} if phrases else {}),
    }


def rescore_fields(rescore: RescoreConfig, rescorer: Checkpoint, prompts: str) -> dict[str, Any]:
    """Return the fingerprint's fields about second scores, which only runs with them have; `rescore` is the model's
    digest.

    Args:
        prompts: the fingerprint of what boxes are compared with.
    """
    return {
        "rescore": rescorer.digest,
        "rescore.margin": rescore.margin,
        "rescore.prompts": prompts,
        "rescore.version": RESCORE_VERSION,
    }


def resize_kernel(detect: DetectConfig, rule: ImageRule) -> str:
    """Return how an image comes to the detector's size, for the fingerprint: scores depend on it."""
    if rule.fit == "none":
        return "none"
    kernel = DEVICE_KERNEL if rule.on_device else RESIZE_KERNELS[detect.resize]
    return f"jpeg-draft, {kernel}" if detect.jpeg_draft else kernel


def public_config(config: Config) -> dict[str, Any]:
    """Return the resolved configuration for run.json, without secrets in its URIs, wherever in it they stand."""
    values: dict[str, Any] = redacted(config.model_dump(mode="json"))
    if config.rescore is None:
        del values["rescore"]  # the runs before it have none
    values["input"]["uri"] = [storage.redact(storage.absolute_uri(uri)) for uri in config.input_uris]
    if config.inventory_uris:
        values["input"]["inventory"] = [storage.redact(storage.absolute_uri(uri)) for uri in config.inventory_uris]
    # Commands on the run find them from other working directories, too.
    values["input"]["exclude"] = [storage.redact(storage.absolute_uri(uri)) for uri in config.input.exclude]
    for section, key in (("model", "name"), ("masks", "model"), ("rescore", "model")):
        if values.get(section) and values[section][key]:
            values[section][key] = storage.redact(model_uri(getattr(getattr(config, section), key)))
    values["output"]["uri"] = storage.redact(storage.absolute_uri(config.output.uri))
    values["prompts"] = {
        name: value for name, value in values["prompts"].items() if value is not None or name not in _NAMES
    }
    if config.prompts.source and config.prompts.source.run:
        values["prompts"]["from"]["run"] = storage.redact(storage.absolute_uri(config.prompts.source.run))
    return values


def redacted(value: Any) -> Any:
    """Return plain data with every text in it redacted."""
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return storage.redact(value) if isinstance(value, str) else value


def package_versions(names: Sequence[str] = _VERSIONED) -> dict[str, str]:
    """Versions of the interpreter and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):  # its code is here by another way
            found[name] = __version__ if name == "labeler" else metadata.version(name)
    return found

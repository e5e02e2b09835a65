"""The protocol of an evaluation: everything that a reader of its numbers needs to compare them, as plain data."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np

from labeler import __version__, storage
from labeler.runs import Run
from labeler.truth.alignment import CategoryMatch, ImageMatch
from labeler.truth.ground_truth import MAX_PROBLEMS, GroundTruth

_DETECT = ("assignment", "score_floor", "max_detections", "nms_iou", "score")


def protocol_of(
    run: Run, whole: GroundTruth, part: GroundTruth, images: ImageMatch, categories: CategoryMatch
) -> dict[str, Any]:
    """Return all but what is known only after the detections were read."""
    config, prompts = run.manifest.config, run.prompts()
    return {
        "run": {
            "id": run.manifest.run_id,
            "uri": storage.redact(run.uri),
            "fingerprint": run.manifest.fingerprint,
            "model": config["model"]["name"],
            "revision": config["model"].get("revision"),
        },
        "decoding": {
            **{name: config["detect"].get(name) for name in _DETECT},
            **prompts.settings(),
            **({"tile": config["detect"]["tile"]} if config["detect"].get("tile") else {}),
        },
        "annotations": describe_truth(part),
        "images": {
            "failed": images.failed,
            "missing": int(np.count_nonzero(~images.present)),
            "not_annotated": images.others,
            "resized": len(images.resized),
            "resized_examples": list(images.resized[:MAX_PROBLEMS]),
        },
        "categories": {
            "missing": [category.name for category in categories.missing],
            "missing_objects": int(np.delete(whole.objects_by_category(), list(categories.position_of.values())).sum()),
            "not_annotated": [category.name for category in categories.unjudged],
        },
        "versions": versions(),
    }


def describe_truth(truth: GroundTruth) -> dict[str, Any]:
    return {
        "source": truth.source,
        "images": len(truth.file_names),
        "objects": len(truth.image),
        "categories": len(truth.categories),
        "categories_with_objects": int(np.count_nonzero(truth.objects_by_category())),
        "federated": truth.federated is not None,
    }


def versions() -> dict[str, str]:
    return {"labeler": __version__, **{name: metadata.version(name) for name in ("pycocotools", "numpy")}}

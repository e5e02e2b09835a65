"""What thresholds were fitted on: the fingerprint fields of a run that decide what a score means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.errors import Refused
from labeler.labels.thresholds import Thresholds, read_thresholds
from labeler.runs import Run

# Runs without tiles, or that were not fused, have none of these, so a file that lacks them was fitted on such a run.
_OF_TILES = ("detect.tile", "detect.tile_overlap", "detect.tile_min_side", "tiling_version")
_OF_FUSION = ("fused.with", "fused.method", "fused.iou", "fused.scores")

# Another value of any of these gives the same object another score. Floor, cap and limits only decide what is stored.
_FIELDS = (
    "model",
    "family",
    "family_version",
    "family_source",
    "model.options",
    "tokenizer",
    "prompts",
    "vocabulary",
    "image_size",
    "resize_kernel",
    "decoding_version",
    "detect.score",
    "detect.assignment",
    "detect.nms_iou",
    "imported",
    *_OF_TILES,
    *_OF_FUSION,
)


def fitted_on(run: Run) -> dict[str, Any]:
    """The `fitted_on` section of a threshold file: which model, prompts and vocabulary, by digest, and the run's id."""
    named = {"run": run.manifest.run_id, "model_name": run.manifest.config["model"]["name"]}
    return named | score_fields(run)


def score_fields(run: Run) -> dict[str, Any]:
    """The fingerprint fields of a run that decide what its scores mean."""
    fields = run.manifest.fingerprint_fields
    return {name: fields[name] for name in _FIELDS if name in fields}


def require_fitted_on(section: Mapping[str, Any], run: Run, *, source: str) -> None:
    """Refused, naming every field that differs, unless the section is about this run's model, prompts and vocabulary.

    Run id and model name are for people and not compared: a second run of the same model and prompts may use the file.
    A file without the section was written by hand, and is taken.
    """
    ours = run.manifest.fingerprint_fields
    some_have = (*_OF_TILES, *_OF_FUSION) if "model" in section else ()
    compared = [name for name in _FIELDS if name in section or name in some_have]
    differing = [
        f"{name}: the file has {section.get(name)}, the run {ours.get(name)}"
        for name in compared
        if section.get(name) != ours.get(name)
    ]
    if differing:
        names = ", ".join(line.partition(":")[0] for line in differing)
        raise Refused(
            f"thresholds {source} were fitted on another {names} than run {run.manifest.run_id} has: its scores mean "
            "something else; fit them anew with `labeler calibrate` on this run",
            differing,
        )


def thresholds_for(run: Run, uri: str | Path | None, *, default: float = 0.0) -> Thresholds:
    """The thresholds in a file, for this run: what every reader of a threshold file calls; without one, the default.

    Raises:
        Refused: see `read_thresholds`; or the file was fitted on another model, vocabulary, prompts or decoding.
    """
    if not uri:
        return Thresholds(default)
    thresholds = read_thresholds(uri, run.vocabulary(), default=default)
    require_fitted_on(thresholds.fitted_on, run, source=storage.redact(str(uri)))
    return thresholds

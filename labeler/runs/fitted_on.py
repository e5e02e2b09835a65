"""What thresholds were fitted on: the fingerprint fields of a run that decide what a score means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.errors import Refused
from labeler.labels.chosen_score import DETECTORS, FUSED, SCORE, ChosenScore, ScoreFusion
from labeler.labels.thresholds import Thresholds, read_thresholds
from labeler.runs import Run

# Runs without tiles or names per image, and those that were not fused, have none of these: a file that lacks them was
# fitted on such a run.
_OF_TILES = ("detect.tile", "detect.tile_overlap", "detect.tile_min_side", "tiling_version")
_OF_FUSION = ("fused.with", "fused.method", "fused.iou", "fused.scores")
_OF_NAMES = ("prompts.from", "prompts.from_score")

# Another value of any of these gives the same object another score. Floor, cap and limits only decide what is stored.
_FIELDS = (
    "model",
    "family",
    "family_version",
    "family_source",
    "model.options",
    "tokenizer",
    "prompts",
    *_OF_NAMES,
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
FUSED_BY = "fusion"
# The same of a second score, and of one that is fitted to both.
_SECOND_FIELDS = ("rescore", "rescore.margin", "rescore.prompts", "rescore.version")


def fitted_on(run: Run, score: ChosenScore = DETECTORS) -> dict[str, Any]:
    """The `fitted_on` section of a threshold file: which model, prompts and vocabulary, by digest, and the run's id.

    With another score than the detector's also which it is, and what it comes from.
    """
    named = {"run": run.manifest.run_id, "model_name": run.manifest.config["model"]["name"]}
    return named | score_fields(run) | _about(run, score)


def score_fields(run: Run) -> dict[str, Any]:
    """The fingerprint fields of a run that decide what its detector's scores mean."""
    fields = run.manifest.fingerprint_fields
    return {name: fields[name] for name in _FIELDS if name in fields}


def _about(run: Run, score: ChosenScore) -> dict[str, Any]:
    """Return what a file says of the score that it is about; of the detector's nothing."""
    if score.is_detectors:
        return {}
    fields = run.manifest.fingerprint_fields
    second = {name: fields[name] for name in _SECOND_FIELDS if name in fields}
    return {"score": score.name, **second, **({FUSED_BY: score.fusion.to_dict()} if score.fusion else {})}


def require_fitted_on(section: Mapping[str, Any], run: Run, *, source: str, score: ChosenScore = DETECTORS) -> None:
    """Refused, naming every field that differs, unless the section is about this run's model, prompts and vocabulary.

    Run id and model name are for people and not compared: a second run of the same model and prompts may use the file.
    A file without the section was written by hand, and is taken.

    Args:
        score: that the file's thresholds are to be compared with.
    """
    theirs = section.get("score", SCORE) if section else score.name
    if theirs != score.name:
        raise Refused(
            f"thresholds {source} were fitted on score={theirs}, and boxes are to be chosen by score={score.name}; "
            f"use them with --score {theirs}, or fit others with `labeler calibrate --score {score.name}`"
        )
    ours = run.manifest.fingerprint_fields | _about(run, score)
    some_have = (*_OF_TILES, *_OF_FUSION, *_OF_NAMES) if "model" in section else ()
    differing = [
        f"{name}: the file has {section.get(name)}, the run {ours.get(name)}"
        for name in (*_FIELDS, *_SECOND_FIELDS, FUSED_BY)
        if (name in section or name in some_have) and section.get(name) != ours.get(name)
    ]
    if differing:
        names = ", ".join(line.partition(":")[0] for line in differing)
        raise Refused(
            f"thresholds {source} were fitted on another {names} than run {run.manifest.run_id} has, so scores are not "
            "comparable; refit with `labeler calibrate` on this run",
            differing,
        )


def thresholds_for(
    run: Run, uri: str | Path | None, *, default: float = 0.0, score: ChosenScore = DETECTORS
) -> Thresholds:
    """The thresholds in a file, for this run: what every reader of a threshold file calls; without one, the default.

    Args:
        score: that the thresholds are to be compared with.

    Raises:
        Refused: see `read_thresholds`; or the file was fitted on another model, vocabulary, prompts, decoding or score.
    """
    if not uri:
        return Thresholds(default)
    thresholds = read_thresholds(uri, run.vocabulary(), default=default)
    require_fitted_on(thresholds.fitted_on, run, source=storage.redact(str(uri)), score=score)
    return thresholds


def require_second_scores(run: Run, name: str) -> None:
    """Refused for a score that needs second scores, of a run that has none."""
    if name != SCORE and "score2" not in run.columns:
        shown = storage.redact(run.uri)
        raise Refused(
            f"--score {name}: run {shown} has no second scores; make them with `labeler rescore {shown} "
            "rescore.model=...`"
        )


def fused_score(run: Run, uri: str | Path) -> ChosenScore:
    """The score that `labeler calibrate --score fused` has fitted, from the file it wrote.

    Raises:
        Refused: if there is no such file, it has no fusion, or it was fitted on other scores than the run has.
    """
    shown = storage.redact(str(uri))
    advice = "fit one with `labeler calibrate --score fused`, or name its file with --fusion"
    if storage.head(str(uri)) is None:
        raise Refused(f"--score fused: {shown} is missing; {advice}")
    section = read_thresholds(uri, run.vocabulary()).fitted_on
    if FUSED_BY not in section:
        raise Refused(f"--score fused: thresholds {shown} have no fusion; {advice}")
    try:
        found = ChosenScore(FUSED, ScoreFusion.from_dict(section[FUSED_BY]))
    except ValueError as error:
        raise Refused(f"thresholds {shown}: fitted_on.{FUSED_BY} is damaged: {error}; {advice}") from None
    require_fitted_on(section, run, source=shown, score=found)
    return found

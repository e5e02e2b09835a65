"""Use a run's labels from a program: export, evaluate, calibrate. No GPU and no Ray."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypedDict, Unpack

from labeler import storage
from labeler.api.labeled_run import LabeledRun, open_run
from labeler.errors import Refused

if TYPE_CHECKING:
    from labeler.calibration import Calibration
    from labeler.evaluation.evaluation import Evaluation
    from labeler.exports.export import ExportSummary

RunLike: TypeAlias = "LabeledRun | str | PathLike[str]"

log = logging.getLogger("labeler")


class ExportOptions(TypedDict, total=False):
    """The options of `export`: those of `labeler export`, with underscores."""

    partial: bool
    threshold: float
    thresholds: str | PathLike[str]
    score: Literal["score", "score2", "fused"]
    fusion: str | PathLike[str]
    score_below: float
    suppress: float | Literal["off"]
    categories: Sequence[str]
    min_side: float
    area: str
    uncertain: str
    uncertain_as: Literal["drop", "crowd", "blank", "image"]
    boxes: str
    where: str
    sample: str | PathLike[str]
    images_per_category: int
    split: Mapping[str, float]
    group_by: str
    near_copies: int | Literal["off"]
    images: Literal["none", "copy"]
    images_per_shard: int
    boxes_per_task: int
    negatives: int
    category_ids: Literal["vocabulary", "zero-based", "one-based"]
    layout: Literal["flat", "coco", "roboflow"]
    labels: Literal["all", "present"]
    image_prefix: str


def export(
    run: RunLike, to: str, *, output: str | PathLike[str] | None = None, **options: Unpack[ExportOptions]
) -> ExportSummary:
    """Write a run's labels in a format of trainers or annotation tools, as `labeler export` does.

    Args:
        run: a run, or its folder.
        to: the format: "coco", "lvis", "yolo", "odvg", "webdataset", "parquet", "hf", "label-studio", "cvat",
            "x-anylabeling" or "voc".
        output: the file or folder to write; below the run's exports/ by default.
        options: which boxes and images, and how they are written; see docs/guides/export.md.

    Returns:
        Where it is (`uri`) and what is in it (`totals`).

    Raises:
        Refused: an option does not exist or makes no sense for the run or the format; nothing was written.
        Incomplete: storage failed; the same call resumes the export.
    """
    from labeler.commands.export import export_as
    from labeler.commands.parser import unrecognized

    given = {"output": output, **options}
    parser, command = _export_parser()
    arguments, left = parser.parse_known_args(["export", _uri(run), f"--to={to}", *_as_arguments(given)])
    if left:
        command.error(unrecognized(left, command))
    summary, _ = export_as(arguments, lambda warning: log.warning("%s", warning))
    return summary


class _Parser(argparse.ArgumentParser):
    """A parser that raises Refused instead of printing its usage and exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "add_help": False, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        from labeler.commands.parser import suggest

        raise Refused(f"export: {suggest(message)}")


def _export_parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """(the parser of a command line, that of its export command)."""
    from labeler.commands import export as command

    parser = _Parser()
    verbs: Any = parser.add_subparsers(dest="verb", parser_class=_Parser)
    command.add(verbs)
    return parser, verbs.choices["export"]


def _as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options by name as the command line has them."""
    found = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            found.append(option)
        elif isinstance(value, Mapping):
            found.append(f"{option}={','.join(f'{key}={share}' for key, share in value.items())}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found += [f"{option}={each}" for each in value]
        else:
            found.append(f"{option}={value}")
    return found


def evaluate(
    run: RunLike,
    annotations: str | PathLike[str] | dict[str, Any],
    *,
    groups: str | None = None,
    rules: Literal["auto", "coco", "lvis"] = "auto",
    by_name: bool = False,
    partial: bool = False,
    masks: bool | None = None,
    thresholds: str | PathLike[str] | None = None,
) -> Evaluation:
    """Compare a run's boxes with ground truth, by COCO's or LVIS's rules. Nothing is written.

    Args:
        run: a run, or its folder.
        annotations: COCO or LVIS json: a path, a URL, or its parsed content.
        groups: a YAML file, `name: [category, ...]`, for the AP of each group.
        rules: "auto" is LVIS if images carry `neg_category_ids`, else COCO.
        by_name: match categories by name, whatever their ids.
        partial: take an unfinished run, and ignore images and categories that one side lacks.
        masks: evaluate masks, too; None: if the run and the annotations have them.
        thresholds: a threshold file; only boxes at or above their category's threshold count.

    Returns:
        The scores; `lines()` prints them, `to_json()` is the file that `labeler evaluate` writes.

    Raises:
        Refused: an unfinished run, other images or categories, or thresholds of another model.
    """
    from labeler.evaluation.evaluate import evaluate_run

    truth = annotations if isinstance(annotations, dict) else str(annotations)
    return evaluate_run(
        _opened(run).snapshot,
        truth,
        groups=groups,
        rules=rules,
        by_name=by_name,
        partial=partial,
        masks=masks,
        thresholds=None if thresholds is None else str(thresholds),
    )


def calibrate(
    run: RunLike,
    target: str,
    *,
    annotations: str | PathLike[str] | None = None,
    marks: str | PathLike[str] | None = None,
    sample: str | PathLike[str] | None = None,
    confidence: float = 0.9,
    min_judged: int = 30,
    score: Literal["score", "score2", "fused"] = "score",
    by_name: bool = False,
    partial: bool = False,
    output: str | PathLike[str] | None = None,
) -> Calibration:
    """Fit a score threshold per category for a target precision or recall.

    Args:
        run: a run, or its folder.
        target: e.g. "precision=0.9" or "recall=0.5".
        annotations: ground truth of some of the run's images, COCO or LVIS json.
        marks: boxes marked right or wrong, JSON from a report, or a corrected run. One of the two is needed.
        sample: the file of the sample whose boxes are marked; without it the marks say which boxes were drawn by
            chance.
        confidence: how certain the target must be, 0.5 to 1.
        min_judged: categories with fewer evaluated boxes share a fallback threshold.
        score: of a rescored run: the detector's score, the second model's, or one that is fitted to both first.
        by_name, partial: as of `evaluate`.
        output: the YAML file to write, which is replaced; None writes nothing.

    Returns:
        The thresholds and the evidence for each.

    Raises:
        Refused: neither or both of annotations and marks, or as `evaluate`.
    """
    from labeler.calibration import parse_target
    from labeler.calibration.by_score import calibrate_by_score
    from labeler.calibration.reviews import read_judgments
    from labeler.calibration.threshold_file import to_yaml
    from labeler.exports.sampled import read_sample

    if (annotations is None) == (marks is None):
        raise Refused("calibrate needs annotations or marks, one of them")
    if sample is not None and marks is None:
        raise Refused("a sample goes with marks of its boxes")
    wanted = parse_target(target, confidence=confidence, min_judged=min_judged)
    opened = _opened(run)
    if not partial:
        opened.snapshot.require_complete("calibrate on what there is with partial=True")
    found, chosen, _ = calibrate_by_score(
        opened.snapshot,
        wanted,
        score,
        annotations=None if annotations is None else str(annotations),
        marks=None if marks is None else read_judgments(str(marks), opened.run),
        sample=None if sample is None else read_sample(str(sample), opened.run),
        by_name=by_name,
        partial=partial,
    )
    if output is not None:
        source = storage.redact(str(annotations if marks is None else marks))
        storage.put(str(output), to_yaml(found, opened.run, source=source, score=chosen))
    return found


def _opened(run: RunLike) -> LabeledRun:
    return run if isinstance(run, LabeledRun) else open_run(run)


def _uri(run: RunLike) -> str:
    return run.uri if isinstance(run, LabeledRun) else storage.absolute_uri(str(run))

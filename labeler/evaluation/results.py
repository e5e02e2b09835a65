"""Results files: the list of detections that COCO's tools exchange, judged by the same rules as a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeler import plain_json, storage
from labeler.errors import Refused
from labeler.evaluation.average_precision import LVIS, Score
from labeler.evaluation.collector import Collector, RulesChoice, choose_rules
from labeler.evaluation.columns import is_box
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.evaluation import Evaluation
from labeler.evaluation.ground_truth import Annotations, GroundTruth, read_ground_truth
from labeler.evaluation.groups import GroupsSpec, frequency_groups, read_groups
from labeler.evaluation.masks import to_rle
from labeler.evaluation.matching import Kind
from labeler.evaluation.protocol import describe_truth, versions

_KEYS: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation"}


def evaluate_results(
    results: str | Path | Sequence[Any],
    annotations: Annotations,
    *,
    groups: GroupsSpec | None = None,
    rules: RulesChoice = "auto",
) -> Evaluation:
    """Judge a COCO results list ([{image_id, category_id, bbox and/or segmentation, score}, ...]), from any detector.

    Boxes and masks are evaluated where the entries have them. Nothing is known of floor, cap and assignment, so under
    LVIS's rules both AP and Fixed AP are given, and the latter is right only for results that were never capped.

    Raises:
        Refused: not such a list, or ids that the annotations do not have.
    """
    entries, source = _read_results(results)
    kinds = [kind for kind, key in _KEYS.items() if entries and key in entries[0]] or list[Kind](["bbox"])
    truth = read_ground_truth(annotations, masks="segm" in kinds)
    chosen = choose_rules(truth, rules)
    scores: list[Score] = []
    notes: list[str] = []
    for kind in kinds:
        collector = Collector(truth, chosen, fixed=chosen is LVIS, masks=kind == "segm")
        collector.add(parse_results(truth, entries, kind, source=source))
        notes = collector.notes()
        scores += collector.scores([kind])
    protocol = {
        "results": source,
        "decoding": None,
        "annotations": describe_truth(truth),
        "notes": notes,
        "versions": versions(),
    }
    named = read_groups(groups, truth) if groups is not None else {}
    return Evaluation(protocol, truth, tuple(scores), {}, named | (frequency_groups(truth) if chosen is LVIS else {}))


def _read_results(results: str | Path | Sequence[Any]) -> tuple[Sequence[Any], str]:
    if not isinstance(results, str | Path):
        return results, "list"
    shown = storage.redact(str(results))
    try:
        entries = plain_json.parse(storage.read_bytes(str(results)), max_bytes=None)
    except ValueError as error:
        raise Refused(f"results {shown} are no JSON: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Refused(f"results {shown} must be a list of objects with image_id, category_id, bbox and score")
    return entries, shown


def parse_results(truth: GroundTruth, results: Sequence[Any], kind: Kind, *, source: str) -> DetectionTable:
    """A COCO results list ([{image_id, category_id, bbox or segmentation, score}, ...]) as a table.

    As in pycocotools, detections of categories the ground truth does not have are left out, and unknown images refused.
    Float64 throughout, so that the result is pycocotools' own to the last bit.
    """
    image_of = {int(id_): position for position, id_ in enumerate(truth.image_ids)}
    category_of = {category.id: position for position, category in enumerate(truth.categories)}
    problems = [line for row, entry in enumerate(results) if (line := _problem(entry, f"[{row}]", image_of, kind))]
    if problems:
        raise Refused(f"results {source}: {len(problems):,} bad entries", problems[:20])
    kept = [entry for entry in results if entry["category_id"] in category_of]
    masks = None
    boxes = np.zeros((len(kept), 4))
    if kind == "bbox":
        boxes = np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4)
    else:
        masks = np.empty(len(kept), np.object_)
        for row, entry in enumerate(kept):
            height, width = (int(side) for side in truth.sizes[image_of[entry["image_id"]]])
            masks[row] = to_rle(entry["segmentation"], height, width)
            if masks[row] is None:
                raise Refused(f"results {source}: a mask of image {entry['image_id']} is no RLE of {height} x {width}")
    return DetectionTable(
        np.array([image_of[entry["image_id"]] for entry in kept], np.int32),
        np.array([category_of[entry["category_id"]] for entry in kept], np.int32),
        np.array([entry["score"] for entry in kept], np.float64),
        boxes,
        masks,
    )


def _problem(entry: Any, place: str, image_of: Mapping[int, int], kind: str) -> str | None:
    if not isinstance(entry, Mapping) or not {"image_id", "category_id", "score"} <= set(entry):
        return f"{place}: expected an object with image_id, category_id, score"
    if entry["image_id"] not in image_of:
        return f"{place}: image_id {entry['image_id']} is not in the annotations"
    if not isinstance(entry["score"], int | float) or not np.isfinite(entry["score"]):
        return f"{place}: score must be a number, got {entry['score']!r}"
    if kind == "bbox" and not is_box(entry.get("bbox")):
        return f"{place}: bbox must be [x, y, width, height], got {entry.get('bbox')!r}"
    if kind == "segm" and not entry.get("segmentation"):
        return f"{place}: no segmentation"
    return None

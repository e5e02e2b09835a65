"""Results files: the list of detections that COCO's tools exchange, judged by the same rules as a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeler import plain_json, storage
from labeler.errors import Refused
from labeler.evaluation.average_precision import LVIS, Score
from labeler.evaluation.collector import Collector, RulesChoice, choose_rules
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.evaluation import Evaluation
from labeler.evaluation.groups import GroupsSpec, frequency_groups, read_groups
from labeler.evaluation.protocol import describe_truth, versions
from labeler.truth.columns import is_box, is_number, short
from labeler.truth.ground_truth import MAX_PROBLEMS, Annotations, GroundTruth, read_ground_truth
from labeler.truth.matching import Kind
from labeler.truth.rles import to_rles

_KEYS: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation"}


def evaluate_results(
    results: str | Path | Sequence[Any],
    annotations: Annotations,
    *,
    groups: GroupsSpec | None = None,
    rules: RulesChoice = "auto",
) -> Evaluation:
    """Judge a COCO results list ([{image_id, category_id, bbox and/or segmentation, score}, ...]), from any detector.

    Boxes and masks are evaluated if any entry has them; an entry without a mask then counts for boxes only. Nothing is
    known of floor, cap and assignment, so under LVIS's rules both AP and Fixed AP are given, and the latter is right
    only for results that were never capped.

    Raises:
        Refused: not such a list, or ids that the annotations do not have.
    """
    entries, source = _read_results(results)
    kinds = [kind for kind, key in _KEYS.items() if any(_has(entry, key) for entry in entries)] or list[Kind](["bbox"])
    truth = read_ground_truth(annotations, masks="segm" in kinds)
    chosen = choose_rules(truth, rules)
    scores: list[Score] = []
    notes: list[str] = []
    for kind in kinds:
        collector = Collector(truth, chosen, fixed=chosen is LVIS, masks=kind == "segm")
        collector.add(parse_results(truth, entries, kind, source=source, maskless=len(kinds) > 1))
        notes = [*collector.notes(), *_unknown_categories(truth, entries)]
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


def _has(entry: Any, key: str) -> bool:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    return isinstance(value, Sequence | Mapping) and len(value) > 0


def _read_results(results: str | Path | Sequence[Any]) -> tuple[Sequence[Any], str]:
    if not isinstance(results, str | Path):
        return results, "list"
    shown = storage.redact(str(results))
    try:
        entries = plain_json.parse(storage.read_bytes(str(results)), max_bytes=None)
    except ValueError as error:
        raise Refused(f"results {shown} are not JSON: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Refused(f"results {shown} must be a list of objects with image_id, category_id, bbox and score")
    return entries, shown


def parse_results(
    truth: GroundTruth, results: Sequence[Any], kind: Kind, *, source: str, maskless: bool = False
) -> DetectionTable:
    """Return a COCO results list ([{image_id, category_id, bbox or segmentation, score}, ...]) as a table.

    As in pycocotools, detections of categories the ground truth does not have are excluded, and unknown images refused.
    Float64 throughout, so that the result is pycocotools' own to the last bit.

    Args:
        maskless: entries need no mask; those without one count for boxes only.
    """
    image_of = {int(id_): position for position, id_ in enumerate(truth.image_ids)}
    category_of = {category.id: position for position, category in enumerate(truth.categories)}
    needed = None if kind == "segm" and maskless else kind
    problems = [line for row, entry in enumerate(results) if (line := _problem(entry, f"[{row}]", image_of, needed))]
    if problems:
        raise _refuse(source, problems)
    places = [row for row, entry in enumerate(results) if entry["category_id"] in category_of]
    kept = [results[row] for row in places]
    masks = None
    boxes = np.zeros((len(kept), 4))
    if kind == "bbox":
        boxes = np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4)
    else:
        masks = np.empty(len(kept), np.object_)
        given = np.array([row for row, entry in enumerate(kept) if entry.get("segmentation")], np.int64)
        sizes = truth.sizes[[image_of[kept[row]["image_id"]] for row in given]].reshape(-1, 2)
        masks[given] = to_rles([kept[row]["segmentation"] for row in given], sizes)
        for row, (height, width) in zip(given, sizes, strict=True):
            if masks[row] is None:
                what = f"the mask of image {kept[row]['image_id']}"
                problems.append(f"[{places[row]}]: {what} is not an RLE whose runs fill {height} x {width} pixels")
        if problems:
            raise _refuse(source, problems)
    return DetectionTable(
        np.array([image_of[entry["image_id"]] for entry in kept], np.int32),
        np.array([category_of[entry["category_id"]] for entry in kept], np.int32),
        np.array([entry["score"] for entry in kept], np.float64),
        boxes,
        masks,
    )


def _unknown_categories(truth: GroundTruth, results: Sequence[Any]) -> list[str]:
    """Return what to say of detections that no category of the annotations can judge."""
    known = {category.id for category in truth.categories}
    unknown = Counter(int(entry["category_id"]) for entry in results if entry["category_id"] not in known)
    if not unknown:
        return []
    ids = ", ".join(map(str, sorted(unknown)[:MAX_PROBLEMS]))
    more = f" and {len(unknown) - MAX_PROBLEMS:,} more" if len(unknown) > MAX_PROBLEMS else ""
    found = f"{unknown.total():,} of {len(results):,} detections have a category_id that the annotations lack"
    return [f"{found} and are not counted: {ids}{more}"]


def _refuse(source: str, problems: Sequence[str]) -> Refused:
    return Refused(f"results {source}: {len(problems):,} bad entries", problems[:MAX_PROBLEMS])


def _problem(entry: Any, place: str, image_of: Mapping[int, int], kind: Kind | None) -> str | None:
    if not isinstance(entry, Mapping) or not {"image_id", "category_id", "score"} <= set(entry):
        return f"{place}: expected an object with image_id, category_id, score"
    for name in ("image_id", "category_id"):
        if not is_number(entry[name]) or entry[name] != int(entry[name]):
            return f"{place}: {name} must be a whole number, got {short(entry[name])}"
    if entry["image_id"] not in image_of:
        return f"{place}: image_id {short(entry['image_id'])} is not in the annotations"
    if not is_number(entry["score"]):
        return f"{place}: score must be a number, got {short(entry['score'])}"
    if kind == "bbox" and not is_box(entry.get("bbox")):
        return f"{place}: bbox must be [x, y, width, height], got {short(entry.get('bbox'))}"
    if kind == "segm" and not entry.get("segmentation"):
        return f"{place}: no segmentation"
    return None

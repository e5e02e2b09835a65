"""Evaluate a run: match it with ground truth, read its detections once, and score them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeler import storage
from labeler.errors import Refused
from labeler.evaluation.asked import describe_not_asked, find_not_asked
from labeler.evaluation.average_precision import LVIS, LVIS_FIXED
from labeler.evaluation.collector import Collector, RulesChoice, choose_rules, why_not_fixed
from labeler.evaluation.detection_table import DetectionTable
from labeler.evaluation.evaluation import Aligned, Evaluation
from labeler.evaluation.groups import GroupsSpec, frequency_groups, read_groups
from labeler.evaluation.protocol import protocol_of
from labeler.labels.boxes import xyxy_to_xywh
from labeler.labels.chosen_score import ChosenScore
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.merge import survive_across_categories
from labeler.labels.records import BOXES
from labeler.labels.thresholds import NOTHING_KEPT, Thresholds
from labeler.runs import Run, Snapshot, UnitKey, read_snapshot, require_run
from labeler.runs.fitted_on import thresholds_for
from labeler.truth.alignment import ImageMatch, Positions, match_categories, match_images
from labeler.truth.ground_truth import Annotations, GroundTruth
from labeler.truth.matching import Kind
from labeler.truth.reviewed_run import read_truth

UNSCORED = "the run has boxes without a score: they rank first, together, and pass every threshold"


def evaluate_run(
    of: str | Snapshot,
    annotations: Annotations,
    *,
    groups: GroupsSpec | None = None,
    rules: RulesChoice = "auto",
    fixed_ap: bool = False,
    by_name: bool = False,
    partial: bool = False,
    masks: bool | None = None,
    thresholds: str | None = None,
    suppress_iou: float | None = None,
    score: ChosenScore | None = None,
    not_asked_missed: bool = False,
) -> Evaluation:
    """Judge a run's stored detections by ground truth; nothing is written.

    Images that the run could not label count as images without detections. Reads unit files twice: all for the names,
    then those with annotated images for the detections, as a stream. Holds 28 bytes a detection of annotated images,
    twice that while they are put together.

    Args:
        of: the run folder, or what was read of it.
        annotations: COCO or LVIS json: a path, a URL, or its parsed content; or the folder of a corrected run, whose
            completely reviewed images are the ground truth.
        groups: named groups of categories, see `read_groups`; LVIS's rare, common and frequent come by themselves.
        rules: "auto" is LVIS where images carry `neg_category_ids`, else COCO.
        fixed_ap: refuse the run when Fixed AP cannot be measured on it; else that is only said.
        by_name: match categories by name alone.
        partial: evaluate the images and categories that both sides have, of an unfinished run too, and say what that
            excludes.
        masks: evaluate masks too; None: if the run and the annotations have them.
        thresholds: a threshold file: only detections at or above their category's threshold count.
        suppress_iou: with `thresholds`: precision, recall and F1 are those of what an export that suppresses across
            categories would keep; AP, which looks at all categories by themselves, is not changed.
        score: of each box that counts; None: that of the snapshot, which is the detector's unless it says otherwise.
        not_asked_missed: objects whose category was not asked for in their image count as missed; else they are
            ignored, because the run says nothing about them.

    Raises:
        Refused: not a run, an unfinished one, other images or categories, thresholds of another model or vocabulary,
            or what `fixed_ap` and `partial` say.
        StorageError: something cannot be read.
    """
    snapshot = read_snapshot(require_run(of)) if isinstance(of, str) else of
    snapshot = snapshot if score is None else replace(snapshot, score=score)
    run = snapshot.run
    limits = thresholds_for(run, thresholds, score=snapshot.score)
    if not partial:
        snapshot.require_complete("evaluate what there is with --partial")
    whole, with_masks = _read_truth(annotations, run, masks)
    chosen = choose_rules(whole, rules)
    why_not = why_not_fixed(run.manifest.config["detect"]) if chosen is LVIS else ""
    if fixed_ap and (why_not or chosen is not LVIS):
        raise Refused(f"Fixed AP cannot be measured: {why_not or 'the annotations are not federated, as LVIS is'}")
    wanted = read_groups(groups, whole) if groups is not None else {}
    categories = match_categories(run.vocabulary(), whole, by_name=by_name, partial=partial)
    images = match_images(snapshot, whole)
    _require_all_images(run, whole, images, partial=partial)
    part = Aligned.of(whole, images, categories)
    part, about_asked = _judged(snapshot, part, missed=not_asked_missed)
    collector = Collector(part.truth, chosen, fixed=chosen is LVIS and not why_not, masks=with_masks)
    kept = Collector(part.truth, chosen, fixed=False, masks=with_masks)
    suppress_iou = None if thresholds is None else suppress_iou
    cap, at_cap = int(run.manifest.config["detect"]["max_detections"]), 0
    detections = read_detections(
        snapshot, part.rows, part.category_of, limits, suppress_iou=suppress_iou, masks=with_masks
    )
    for found, survives, lengths in detections:
        collector.add(found)
        if suppress_iou is not None:
            kept.add(found[survives])
        at_cap += int(np.count_nonzero(lengths == cap)) if cap else 0
    protocol = protocol_of(run, whole, part.truth, images, categories)
    protocol["images"] |= {"at_cap": at_cap, "run_complete": snapshot.is_complete}
    protocol["notes"] = collector.notes() + _notes_on_boxes(run, limits)
    protocol |= _about_boxes(snapshot, thresholds, suppress_iou) | about_asked
    kinds: tuple[Kind, ...] = ("bbox", "segm") if with_masks else ("bbox",)
    return Evaluation(
        protocol,
        part.truth,
        collector.scores(kinds),
        {LVIS_FIXED.name: why_not} if why_not else {},
        part.moved(wanted) | (frequency_groups(part.truth) if chosen is LVIS else {}),
        kept.scores(kinds) if suppress_iou is not None else (),
        part,
    )


def _judged(snapshot: Snapshot, part: Aligned, *, missed: bool) -> tuple[Aligned, dict[str, Any]]:
    """Return the objects that are judged, and the protocol's field about names that were not asked for, if there is
    one.

    Args:
        missed: objects of such names count as missed; else they are excluded.
    """
    unasked = find_not_asked(snapshot, part)
    if unasked is None:
        return part, {}
    about = {"not_asked": describe_not_asked(part, unasked, missed=missed)}
    return part if missed else replace(part, truth=part.truth.only_objects(~unasked)), about


def _notes_on_boxes(run: Run, limits: Thresholds) -> list[str]:
    return ([] if limits.keep_any else [NOTHING_KEPT]) + ([UNSCORED] if "unscored" in run.columns else [])


def _about_boxes(snapshot: Snapshot, thresholds: str | None, suppress_iou: float | None) -> dict[str, Any]:
    """Return the protocol's fields about which boxes count, and with which score."""
    fields = {"thresholds": None if thresholds is None else storage.redact(thresholds), "suppress_iou": suppress_iou}
    return fields if snapshot.score.is_detectors else {**fields, "score": snapshot.score.name}


def _read_truth(annotations: Annotations, run: Run, masks: bool | None) -> tuple[GroundTruth, bool]:
    """Return the annotations, and whether masks are evaluated on them."""
    has_masks = bool(run.manifest.fingerprint_fields.get("masks"))
    if masks and not has_masks:
        raise Refused("the detections of the run have no masks; label with a `masks` section to evaluate them")
    if masks is None and has_masks:
        try:
            return read_truth(annotations, masks=True), True
        except Refused:  # annotations without masks; the call below reports any other problem
            return read_truth(annotations), False
    return read_truth(annotations, masks=bool(masks)), bool(masks)


def _require_all_images(run: Run, truth: GroundTruth, images: ImageMatch, *, partial: bool) -> None:
    missing = np.flatnonzero(~images.present)
    if not len(missing) or partial:
        return
    first = ", ".join(truth.file_names[image] for image in missing[:3])
    raise Refused(
        f"{len(missing):,} of {len(truth.file_names):,} images of annotations {truth.source} are not in run "
        f"{run.manifest.run_id} ({first}{', ...' if len(missing) > 3 else ''}); --partial evaluates the others"
    )


def read_detections(
    snapshot: Snapshot,
    rows: Mapping[UnitKey, Positions],
    category_of: Mapping[int, int],
    thresholds: Thresholds,
    *,
    suppress_iou: float | None = None,
    masks: bool = False,
) -> Iterator[tuple[DetectionTable, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
    """For each unit that matters: its detections, which of them survive, and how many each image has stored.

    Args:
        rows: see `ImageMatch`; positions must be those of the ground truth that is evaluated.
        category_of: category id -> position; detections of other categories are excluded.
        thresholds: detections below them are excluded, too.
        suppress_iou: of boxes above their thresholds that overlap more, whatever their categories, only the best
            survives, as in exports; None: all do.
        masks: read them, too; a detection may have none.
    """
    ids = np.array(sorted(category_of), np.int64)
    positions = np.array([category_of[int(id_)] for id_ in ids], np.int32)
    for unit, table in snapshot.only(rows).units(("detections" if masks else BOXES,)):
        yield _to_table(table, rows[unit], ids, positions, thresholds, suppress_iou, masks=masks)


def _to_table(
    table: pa.Table,
    image_of_row: Positions,
    ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int32],
    thresholds: Thresholds,
    suppress_iou: float | None,
    *,
    masks: bool,
) -> tuple[DetectionTable, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    column = DetectionsColumn(table)
    every = column.detections
    image = np.repeat(image_of_row, column.lengths)
    place = np.minimum(np.searchsorted(ids, every.category_ids), len(ids) - 1)
    above = (image >= 0) & thresholds.keeps(every)
    kept = above & (ids[place] == every.category_ids)
    survives = above if suppress_iou is None else above.copy()
    if suppress_iou is not None:  # by boxes of categories that are not annotated, too
        for mine in np.split(np.flatnonzero(above), np.flatnonzero(np.diff(image[above])) + 1):
            survives[mine] = survive_across_categories(every[mine], iou_above=suppress_iou)
    found = DetectionTable(image[kept], positions[place[kept]], every.scores[kept], xyxy_to_xywh(every.boxes[kept]))
    if masks:
        found = replace(found, masks=_masks(column, kept))
    return found, survives[kept], column.lengths[image_of_row >= 0]


def _masks(column: DetectionsColumn, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_]:
    rles = np.full(int(kept.sum()), None, np.object_)
    for row, mask in enumerate(column.masks(kept) or ()):
        rles[row] = None if mask is None else mask.rle
    return rles

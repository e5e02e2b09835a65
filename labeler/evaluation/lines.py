"""An evaluation as lines for people: the protocol first, then the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labeler.evaluation import operating_points
from labeler.evaluation.average_precision import LVIS_FIXED, Score
from labeler.evaluation.evaluation import Evaluation

ALL_CATEGORIES = 100  # up to that many are printed; of more, the lowest
LOWEST_CATEGORIES = 20
_KINDS = {"bbox": "boxes", "segm": "masks"}


def describe(evaluation: Evaluation) -> list[str]:
    """Protocol, AP, groups, categories and thresholds."""
    lines = _protocol(evaluation.protocol)
    for score in evaluation.scores:
        lines += ["", *_score(evaluation, score)]
    for rules, reason in evaluation.refused.items():
        lines += ["", f"{rules}: refused: {reason}"]
    main = evaluation.scores[0]
    lines += ["", *_categories(evaluation, main)]
    if evaluation.protocol.get("thresholds"):
        return [*lines, "", *_at_file(evaluation, (evaluation.kept or evaluation.scores)[0])]
    for score in evaluation.scores:
        if score.rules is not LVIS_FIXED:
            lines += ["", *_thresholds(evaluation, score)]
    return lines


def _protocol(protocol: Mapping[str, Any]) -> list[str]:
    truth, decoding = protocol["annotations"], protocol["decoding"]
    lines = []
    if decoding is None:
        lines.append(f"results     {protocol['results']}; floor, cap and assignment unknown")
    else:
        run = protocol["run"]
        revision = f" at {run['revision']}" if run["revision"] else ""
        cap = f"at most {decoding['max_detections']} an image" if decoding["max_detections"] else "no cap"
        chunks = _passes(decoding)
        chunks += f", tiles of {decoding['tile']} pixels" if "tile" in decoding else ""
        lines.append(f"run         {run['id']}, model {run['model']}{revision}")
        lines.append(
            f"decoding    {decoding['assignment']}, score floor {decoding['score_floor']}, {cap}, NMS "
            f"{decoding['nms_iou']} within a category, score {decoding['score']}, {chunks}"
        )
    lines.append(
        f"ground truth       {truth['source']}: {truth['images']:,} images, {truth['objects']:,} objects, "
        f"{truth['categories_with_objects']:,} of {truth['categories']:,} categories have any"
    )
    lines += _images(protocol["images"]) if "images" in protocol else []
    lines += _left_out(protocol["categories"]) if "categories" in protocol else []
    lines += _not_asked(protocol["not_asked"]) if "not_asked" in protocol else []
    lines += [f"rules       {note}" for note in protocol["notes"]]
    versions = ", ".join(f"{name} {version}" for name, version in protocol["versions"].items())
    return [*lines, f"versions    {versions}"]


def _passes(decoding: Mapping[str, Any]) -> str:
    if "prompt_chunks" in decoding:
        count, one, more = decoding["prompt_chunks"], "prompt chunk", "prompt chunks"
    elif "prompt_passes" in decoding:
        count, one, more = decoding["prompt_passes"], "pass", "passes"
    else:  # a user's family, which need not be here
        return f"prompts of {decoding['family']}"
    return f"{count} {one if count == 1 else more}"


def _images(images: Mapping[str, Any]) -> list[str]:
    lines = []
    if images["failed"]:
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(images["failed"].items()))
        lines.append(f"failed      {reasons}: these count as images without detections")
    if images["missing"]:
        lines.append(f"missing     {images['missing']:,} annotated images are not in the run: excluded")
    if images["not_annotated"]:
        lines.append(f"unannotated {images['not_annotated']:,} images of the run are not in the annotations: excluded")
    if images["resized"]:
        examples = ", ".join(images["resized_examples"][:3])
        lines.append(
            f"sizes       {images['resized']:,} images have another size in the annotations than in the run "
            f"({examples}): their boxes are in other frames, and count as they are"
        )
    if images["at_cap"]:
        lines.append(f"capped      {images['at_cap']:,} images reached detect.max_detections")
    return lines


def _left_out(categories: Mapping[str, Any]) -> list[str]:
    lines = []
    if categories["missing"]:
        lines.append(
            f"missing     {len(categories['missing'])} categories with {categories['missing_objects']:,} objects were "
            f"not looked for by the run: excluded ({_some(categories['missing'])})"
        )
    if categories["not_annotated"]:
        lines.append(
            f"unannotated {len(categories['not_annotated'])} categories of the run are not in the annotations: "
            f"excluded ({_some(categories['not_annotated'])})"
        )
    return lines


def _not_asked(counts: Mapping[str, Any]) -> list[str]:
    share = counts["pairs"] / counts["of_pairs"] if counts["of_pairs"] else 0.0
    what = "they count as missed" if counts["counted_as_missed"] else "excluded; --not-asked missed counts them"
    return [
        f"not asked   {counts['objects']:,} of {counts['of_objects']:,} objects are of names that their image was not "
        f"asked for: {what}",
        f"ceiling     {1 - share:.3f} of the (image, category) pairs with objects were asked for",
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _score(evaluation: Evaluation, score: Score) -> list[str]:
    summary = score.summary()
    head = f"{score.rules.name}, {_KINDS[score.kind]}"
    lines = [f"{head:24}" + "  ".join(f"{name} {_number(value)}" for name, value in summary.items())]
    for name, members in evaluation.groups.items():
        group = score.summary(members)
        shown = "  ".join(f"{key} {_number(group[key])}" for key in ("AP", "AP50", "AP75"))
        counted = int((score.objects[members] > 0).sum())
        objects = int(score.objects[members].sum())
        share = f"{counted:,} of {len(members):,} categories have objects, {objects:,} objects"
        lines.append(f"  {name:22}{shown}  ({share})")
    return lines


def _categories(evaluation: Evaluation, score: Score) -> list[str]:
    rows = [
        (category, score.summary([position]), int(score.objects[position]), int(score.detections[position]))
        for position, category in enumerate(evaluation.truth.categories)
        if score.objects[position]
    ]
    if not rows:
        return ["no category has objects"]
    head = f"by category ({score.rules.name}, {_KINDS[score.kind]})"
    if len(rows) > ALL_CATEGORIES:
        rows = sorted(rows, key=lambda row: row[1]["AP"] or 0.0)[:LOWEST_CATEGORIES]
        head += f", the {LOWEST_CATEGORIES} lowest; all are in the JSON"
    width = max(len("category"), *(len(category.name) for category, *_ in rows))
    lines = [head, f"{'id':>6}  {'category':{width}}  {'AP':>5}  {'AP50':>5}  {'AP75':>5}  objects  detections"]
    for category, summary, objects, detections in rows:
        numbers = "  ".join(_number(summary[key]) for key in ("AP", "AP50", "AP75"))
        lines.append(f"{category.id:>6}  {category.name:{width}}  {numbers}  {objects:>7,}  {detections:>10,}")
    return lines


def _at_file(evaluation: Evaluation, score: Score) -> list[str]:
    """Return precision and recall of what the threshold file keeps: everything that was scored is at or above it."""
    points = operating_points.micro(score, floor=0.0).at(0)
    found = [p.at(0) for p in operating_points.per_category(score, floor=0.0)]
    names = [category.name for category in evaluation.truth.categories]
    width = max(len("(together)"), *map(len, names))
    suppress = evaluation.protocol["suppress_iou"]
    how = "nothing suppressed across categories" if suppress is None else f"suppressed across categories at {suppress}"
    lines = [
        f"at the thresholds of {evaluation.protocol['thresholds']} (boxes, IoU 0.5, {how})",
        f"{'category':{width}}  precision  recall     F1  detections",
    ]
    for name, point in [*zip(names, found, strict=True), ("(together)", points)]:
        if point["detections"] or point["recall"] is not None:
            numbers = f"{_number(point['precision']):>9}  {_number(point['recall']):>6}  {_number(point['f1']):>5}"
            lines.append(f"{name:{width}}  {numbers}  {point['detections']:>10,}")
    return lines


def _thresholds(evaluation: Evaluation, score: Score) -> list[str]:
    points = operating_points.micro(score, floor=evaluation.floor)
    lines = [
        f"at score thresholds ({_KINDS[score.kind]}, IoU 0.5, all categories together)",
        "threshold  precision  recall     F1  detections",
    ]
    best = points.best_point()
    for point in [*points.table(), *([best] if best else [])]:
        mark = "  best F1" if point is best else ""
        lines.append(
            f"{point['threshold']:>9.2f}  {_number(point['precision']):>9}  {_number(point['recall']):>6}  "
            f"{_number(point['f1']):>5}  {point['detections']:>10,}{mark}"
        )
    return lines


def _number(value: float | None) -> str:
    """Three digits after the point; a dash where nothing counts."""
    return "    -" if value is None else f"{value:5.3f}"

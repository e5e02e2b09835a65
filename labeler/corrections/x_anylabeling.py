"""X-AnyLabeling's label files, read back: `checked` says which images were reviewed (labelme: a flag `reviewed`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labeler import plain_json, storage
from labeler.corrections.reviewed import (
    COMPLETE,
    MAX_ELEMENT_BYTES,
    Intake,
    ReviewedBoxes,
    are_numbers,
    row_key,
    shown_places,
)
from labeler.corrections.shapes import box_of
from labeler.errors import Refused
from labeler.truth.columns import is_id

_FLAG = "reviewed"


def label_files(uri: str) -> list[str]:
    """Return the label files in a folder by name, or the one file. Raises Refused if there is none."""
    if uri.lower().endswith(".json"):
        return [uri]
    found = sorted(
        info.uri for info in storage.list_objects(uri) if info.uri.endswith(".json") and "/.labeler/" not in info.uri
    )
    if not found:
        raise Refused(f"corrections {storage.redact(uri)}: no label file (.json) in it; give the folder of the images")
    return found


def read_x_anylabeling(uris: Sequence[str], intake: Intake) -> None:
    """Read label files into `intake`.

    Raises:
        Refused: one is not such a file or of another run, or none says whether its image was reviewed.
    """
    tells = 0
    for uri in uris:
        try:
            document = plain_json.parse(storage.read_bytes(uri), max_bytes=MAX_ELEMENT_BYTES)
        except ValueError as error:
            raise _not_labels(uri, f"is not JSON: {error}") from None
        if not isinstance(document, Mapping) or not isinstance(document.get("shapes"), list):
            raise _not_labels(uri, "has no list `shapes`")
        tells += _read(document, storage.redact(uri), intake)
    if not tells:
        raise Refused(
            f"corrections {intake.source}: no label file says whether its image was reviewed; set `checked` in "
            f"X-AnyLabeling, or start labelme with --flags {_FLAG}"
        )


def _not_labels(uri: str, why: str) -> Refused:
    return Refused(
        f"corrections {storage.redact(uri)} {why}; give the folder with the label files of X-AnyLabeling or labelme"
    )


def _read(document: Mapping[str, Any], where: str, intake: Intake) -> bool:
    """Take one label file; returns whether it says if its image was reviewed."""
    flags = document.get("flags")
    said = document.get("checked", flags.get(_FLAG) if isinstance(flags, Mapping) else None)
    intake.require_run(document.get("labeler_run"))
    if said is not True:
        intake.skipped += said == "failed"
        intake.unreviewed += said != "failed"
        return said is not None
    boxes = ReviewedBoxes(row_key(document.get("labeler_row")))
    for number, shape in enumerate(document["shapes"]):
        _add(shape, f"{where}, shape {number}", intake, boxes)
    sides = [document.get(name) for name in ("imageHeight", "imageWidth")]
    name, digest = document.get("imagePath"), document.get("labeler_digest")
    intake.images.append(
        boxes.image(
            where=where,
            name=name if isinstance(name, str) else "",
            digest=digest if isinstance(digest, str) else "",
            state=COMPLETE,
            size=(int(sides[0] or 0), int(sides[1] or 0)) if all(is_id(side) for side in sides) else None,
            shown=shown_places(document.get("labeler_shown")),
            asked=intake.asked(document.get("labeler_boxes"), where),
            crop=intake.crop(document.get("labeler_crop"), where),
        )
    )
    return True


def _add(shape: Any, where: str, intake: Intake, boxes: ReviewedBoxes) -> None:
    points, label = (shape.get("points"), shape.get("label")) if isinstance(shape, Mapping) else (None, None)
    if not isinstance(points, list) or not points or not all(are_numbers(point, 2) for point in points):
        intake.problems.append(f"{where}: needs `points`, pairs of numbers")
        return
    if not isinstance(label, str):
        intake.problems.append(f"{where}: needs a `label`")
        return
    kind = shape.get("shape_type") or "polygon"
    corners = box_of(points) if kind in ("rectangle", "rotation") else None
    if corners is None:
        rotated = kind in ("rectangle", "rotation")
        corners = intake.upright(points, where, "a rotated box" if rotated else f"a {str(kind)[:40]}")
    if corners is not None:
        boxes.add(corners, label, shape.get("description"))

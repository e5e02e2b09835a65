"""Marks from a report as corrections: right boxes are accepted, wrong ones go; no image counts as complete."""

from __future__ import annotations

import numpy as np

from labeler.calibration.marks import Mark, collect_marks, read_marks
from labeler.corrections.reviewed import BOXES, Intake, Reviewed, row_key
from labeler.runs import Snapshot


def read_as_corrections(uri: str, intake: Intake, snapshot: Snapshot) -> None:
    """Read marks into `intake`, each checked against the box that it is about.

    Raises:
        Refused: not such a file, or marks of another run or of boxes that it does not have.
    """
    marks = read_marks(uri)
    collect_marks(snapshot, marks)  # refuses what is not about this run's boxes
    intake.require_run(marks.run_id)
    by_image: dict[str, list[Mark]] = {}
    for mark in marks.marks:
        by_image.setdefault(mark.image, []).append(mark)
    names = {category.id: category.name for category in snapshot.run.vocabulary().categories}
    for image, found in by_image.items():
        right, row = [mark for mark in found if mark.right], row_key(image)
        intake.images.append(
            Reviewed(
                where=f"image {image}",
                name="",
                row=row,
                digest="" if row else image,
                state=BOXES,
                size=None,
                boxes=np.full((len(right), 4), np.nan),
                labels=tuple(names[mark.category_id] for mark in right),
                places=np.array([mark.box for mark in right], np.int64),
                removed=frozenset(mark.box for mark in found if not mark.right),
            )
        )

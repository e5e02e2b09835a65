"""Which objects of the ground truth a run was not asked for, because their images were asked for other names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.evaluation.evaluation import Aligned
from labeler.labels.records import LABELED
from labeler.runs import Snapshot


def find_not_asked(snapshot: Snapshot, part: Aligned) -> npt.NDArray[np.bool_] | None:
    """Return (objects of `part.truth`,) whether each was not asked for; None for runs that ask every image for all
    names.

    Images that the run could not label were asked for nothing that can be known: their objects count as ever.
    """
    if "asked" not in snapshot.run.columns:
        return None
    truth = part.truth
    some = np.zeros(len(truth.file_names), np.bool_)  # images that were asked for some names alone
    pairs = [np.zeros(0, np.int64)]
    for unit, table in snapshot.only(part.rows).units(("status", "asked")):
        rows = zip(part.rows[unit].tolist(), table["status"].to_pylist(), table["asked"].to_pylist(), strict=True)
        for image, status, ids in rows:
            if image < 0 or ids is None or status not in LABELED:
                continue
            some[image] = True
            pairs.append(truth.keys(image, [part.category_of[id_] for id_ in ids if id_ in part.category_of]))
    asked = np.isin(truth.keys(truth.image, truth.category), np.concatenate(pairs))
    return some[truth.image] & ~asked


def describe_not_asked(part: Aligned, unasked: npt.NDArray[np.bool_], *, missed: bool) -> dict[str, Any]:
    """Return plain data for the protocol: how many objects, and (image, category) pairs that have any, were not asked
    for.

    Args:
        missed: whether these objects count as missed.
    """
    truth = part.truth
    keys = truth.keys(truth.image, truth.category)
    return {
        "objects": int(np.count_nonzero(unasked)),
        "of_objects": len(unasked),
        "pairs": len(np.unique(keys[unasked])),
        "of_pairs": len(np.unique(keys)),
        "counted_as_missed": missed,
    }

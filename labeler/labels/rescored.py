"""An image's row after its boxes were scored again, and what such rows say in `error`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labeler.labels.records import Row
from labeler.labels.revised import CHANGED

_NONE = "no second score"  # how each reason begins


def with_second_scores(row: Row, earlier: Row) -> Row:
    """Return the earlier row with the second scores of its boxes; where there are none, `error` has the reason.

    Args:
        row: of the image now; its detections are the earlier ones with `score2`.
    """
    before, _ = split_off_scores(earlier.error)
    if row.status == "labeled" and row.digest == earlier.digest:
        missing = int(np.isnan(row.detections.more["score2"]).sum())
        reason = f"{_NONE} for {missing} of {len(row.detections)} boxes" if missing else None
        return replace(earlier, detections=row.detections, error=_joined(before, reason))
    reason = CHANGED if row.status == "labeled" else row.error or row.status
    plain = {name: values for name, values in earlier.detections.more.items() if name != "score2"}
    without = replace(earlier.detections, more=plain)
    return replace(earlier, detections=without, error=_joined(before, f"{_NONE}: {reason}"))


def split_off_scores(error: str | None) -> tuple[str, str]:
    """Return (what a row says of other things, what it says of second scores), "" where it says nothing."""
    text = error or ""
    if text.startswith(_NONE):
        return "", text
    before, separator, after = text.partition(f"; {_NONE}")
    return before, f"{_NONE}{after}" if separator else ""


def _joined(*reasons: str | None) -> str | None:
    return "; ".join(reason for reason in reasons if reason) or None

"""Reviews carried over to the run of a newer model: the same images by digest, with the boxes that people confirmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeler import storage
from labeler.corrections.corrections import VERSION, Corrections
from labeler.corrections.matching import Decision, decide
from labeler.corrections.reviewed import BOXES, COMPLETE, NEW, Reviewed, RowKey
from labeler.corrections.tally import Tally
from labeler.errors import Refused
from labeler.labels.detections import Detections
from labeler.labels.extensions import absent
from labeler.labels.records import LABELED, Row, table_to_rows
from labeler.runs import Run, Snapshot, read_snapshot
from labeler.truth.category_names import same_name

_FEW = 5  # names that a message lists


@dataclass(frozen=True)
class Carried:
    """A row to carry over: the boxes of an earlier review, compared with what the newer model found.

    Attributes:
        decision: as if a person had looked at the newer model's boxes and left exactly the reviewed ones.
        reviewed: (k,) those boxes, with the categories of the newer run.
    """

    decision: Decision
    reviewed: Detections

    def apply(self, row: Row) -> Row:
        """The row with the reviewed boxes; of single reviewed boxes also the model's others."""
        earlier, places = row.detections, self.decision.places
        scores = np.full(len(places), np.nan, np.float32)
        scores[places != NEW] = earlier.scores[places[places != NEW]]
        more = {name: absent(name, len(places)) for name in earlier.more}
        more |= {"model_score": scores, "source": self.reviewed.more["source"]}
        found = replace(self.reviewed, scores=np.ones(len(places), np.float32), more=more)
        if self.decision.state == BOXES:
            others = np.setdiff1d(np.arange(len(earlier)), places)
            found = Detections.concat([found, earlier[others]])
        status = "labeled" if len(found) else "empty"
        error = None if self.decision.state == COMPLETE else row.error
        return replace(row, detections=found, status=status, review=self.decision.state, error=error)


def carry_over(snapshot: Snapshot, reviewed: Run) -> Corrections:
    """Read a corrected run and match its reviewed images with those of another run; nothing is written.

    An image counts as completely reviewed only if the earlier run looked for every category of the newer one. Boxes
    that a reviewer removed are removed again only from completely reviewed images.

    Raises:
        Refused: nobody reviewed an image of it, none of them is in the newer run, or their categories are not; or the
            newer run has reviews itself, or copies of an image have reviews that differ.
    """
    earlier = read_snapshot(reviewed)
    earlier.require_complete("carry its reviews over once it is")
    images = _reviewed_rows(earlier)
    if not images:
        raise Refused(
            f"run {storage.redact(reviewed.uri)} has no reviewed image; give a run that `labeler correct` made"
        )
    ids, has_all = _categories(snapshot.run, reviewed, [row for copies in images.values() for _, row in copies])
    tally, size = Tally(), 0
    decisions: dict[RowKey, Carried] = {}
    seen: set[str | None] = set()
    digests = pa.array(list(images), pa.string())
    for table in snapshot.tables():
        table = table.filter(pc.is_in(table["status"], pa.array(LABELED)))
        size += len(table)
        for row in table_to_rows(table.filter(pc.is_in(table["digest"], digests)), snapshot.run.keep):
            if row.review is not None:
                raise Refused(
                    f"run {snapshot.run.manifest.run_id} has reviews of its own (such as {row.shard_id}/{row.index}), "
                    "which those of another run would replace; give the run that was corrected, without its reviews"
                )
            seen.add(row.digest)
            name = snapshot.prefixes[row.shard_id] + row.image_key
            carried = _carried(_own(images[str(row.digest)], name), row, ids, has_all=has_all)
            decisions[row.shard_id, row.index] = carried
            tally.add(carried.decision, row.detections)
    if not decisions:
        raise Refused(
            f"run {storage.redact(reviewed.uri)} has reviews of {len(images):,} images, and none of them is in run "
            f"{snapshot.run.manifest.run_id}: images are matched by the digest of their bytes"
        )
    tally.images.update(unreviewed=size - len(decisions), elsewhere=len(images) - len(seen))
    return Corrections(
        decisions, tally, {"correction": {"version": VERSION, "from": "run", "run": reviewed.manifest.run_id}}
    )


def _own(copies: list[tuple[str, Row]], name: str) -> Row:
    """Return the review of an image among those of its copies: that of its own name, or the one that all have."""
    named = [row for theirs, row in copies if theirs == name]
    if len(named) == 1:
        return named[0]
    first = copies[0][1]
    if all(_say_the_same(first, row) for _, row in copies[1:]):
        return first
    raise Refused(
        f"image {name} could take {len(copies)} different reviews, of copies of it "
        f"({', '.join(theirs for theirs, _ in copies[:3])}); none of them has its name: review it in this run"
    )


def _say_the_same(one: Row, other: Row) -> bool:
    mine, theirs = (row.detections[row.detections.reviewed] for row in (one, other))
    return (
        one.review == other.review
        and len(mine) == len(theirs)
        and np.array_equal(mine.boxes, theirs.boxes)
        and np.array_equal(mine.category_ids, theirs.category_ids)
    )


def _reviewed_rows(snapshot: Snapshot) -> dict[str, list[tuple[str, Row]]]:
    """(name, row) of the reviewed images by digest: copies of an image may have other reviews."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for table in snapshot.tables():
        if "review" not in table.schema.names:
            continue
        for row in table_to_rows(table.filter(pc.is_valid(table["review"])), snapshot.run.keep):
            if row.digest:
                found.setdefault(row.digest, []).append((snapshot.prefixes[row.shard_id] + row.image_key, row))
    return found


def _categories(run: Run, reviewed: Run, images: Sequence[Row]) -> tuple[dict[int, int], bool]:
    """(category id of the reviewed run -> of this one, whether the reviewed run has all of this run's)."""
    ours = [category for category in run.vocabulary().categories if not category.negative]
    theirs = [category for category in reviewed.vocabulary().categories if not category.negative]
    alike = same_name(theirs, ours)
    ids = {their.id: our.id for their, our in zip(theirs, alike, strict=True) if our is not None}
    used = {int(id_) for row in images for id_ in row.detections[row.detections.reviewed].category_ids}
    if lacking := [category.name for category in theirs if category.id in used - ids.keys()]:
        raise Refused(
            f"run {run.manifest.run_id} lacks {len(lacking):,} categories of reviewed boxes "
            f"({', '.join(lacking[:_FEW])}); label with a vocabulary that has them"
        )
    return ids, len(set(ids.values())) == len(ours)


def _carried(image: Row, row: Row, ids: Mapping[int, int], *, has_all: bool) -> Carried:
    mine = image.detections[image.detections.reviewed]
    category_ids = np.array([ids[int(id_)] for id_ in mine.category_ids], np.int32)
    kept = replace(mine, category_ids=category_ids, chunks=np.full(len(mine), -1, np.int16))
    compared = Reviewed(
        where="",
        name="",
        row=None,
        digest="",
        state=COMPLETE,
        size=None,
        boxes=kept.boxes.astype(np.float64),
        labels=(),
        places=np.full(len(kept), NEW, np.int64),
    )
    decision = decide(compared, category_ids, row.detections, (int(row.height or 0), int(row.width or 0)))
    if image.review == BOXES or not has_all:
        decision = replace(decision, state=BOXES, removed=np.zeros(0, np.int64), unshown=0)
    return Carried(decision, kept)

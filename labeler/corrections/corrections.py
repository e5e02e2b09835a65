"""Corrected files as decisions about a run's rows: read, matched and checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from labeler import storage
from labeler.corrections.coco import read_coco
from labeler.corrections.crops import put_together
from labeler.corrections.cvat import Jobs, read_cvat, read_jobs
from labeler.corrections.label_studio import AnnotationChoice, read_label_studio
from labeler.corrections.marks import read_as_corrections
from labeler.corrections.matching import SAME_PX, Decision, agreement, decide
from labeler.corrections.reviewed import BOXES, Intake, Reviewed, RowKey, refused
from labeler.corrections.rows import ReviewedRow, find_rows
from labeler.corrections.tally import Tally
from labeler.corrections.who_reviewed import Reviewers, read_reviewers
from labeler.corrections.x_anylabeling import label_files, read_x_anylabeling
from labeler.digests import canonical_json, digest_of, new_digest
from labeler.errors import Refused, did_you_mean
from labeler.labels.boxes import clip_to_image
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES as WITHOUT_MASKS
from labeler.labels.records import Row
from labeler.runs import Snapshot, UnitKey
from labeler.truth.category_names import same_name
from labeler.vocabulary import Category

VERSION = 1  # raise when the same files would give other rows
COLUMNS = ("review", "source", "model_score")
_PIECE = 1 << 20
_OUTSIDE_PX = 1.0  # that a box may lie outside by a tool's rounding
_FEW = 4  # boxes with ids, below which their places say nothing about the run


@dataclass(frozen=True)
class Options:
    """Options for reading corrected files.

    Attributes:
        form: one of `reviewed.FORMATS`.
        reviewed: `--reviewed`: "all" or a file of names.
        jobs: `--jobs`: a file.
        choice: of several annotations of a task.
        envelopes: take the upright envelopes of other shapes.
    """

    form: str
    reviewed: str | None = None
    jobs: str | None = None
    choice: AnnotationChoice = field(default_factory=AnnotationChoice)
    envelopes: bool = False


class Applied(Protocol):
    """The result of a review for a row."""

    def apply(self, row: Row) -> Row: ...


@dataclass(frozen=True)
class Corrections:
    """Changes to the rows of a run.

    Attributes:
        fields: of the fingerprint of the corrected run.
    """

    decisions: Mapping[RowKey, Applied]
    tally: Tally
    fields: Mapping[str, Any]

    def new_rows(self, unit: UnitKey, rows: Sequence[Row]) -> list[Row]:
        """The rows of a unit after the review."""
        decided = ((row, self.decisions.get((row.shard_id, row.index))) for row in rows)
        return [row if decision is None else decision.apply(row) for row, decision in decided]


def read_corrections(snapshot: Snapshot, uris: Sequence[str], options: Options) -> Corrections:
    """Read corrected files and match them with the run; nothing is written.

    Memory holds the reviewed images and their boxes, some 100 bytes a box and 2 KB an image.

    Raises:
        Refused: the files are not of this format or run, or hold what cannot be applied: all of it at once.
        StorageError: a file cannot be read.
    """
    files = _files(uris, options)
    shown = storage.redact(uris[0]) + (f" and {len(uris) - 1} more" if len(uris) > 1 else "")
    intake = Intake(shown, snapshot.run.manifest.run_id, options.envelopes)
    reviewers, jobs = read_reviewers(options.reviewed), read_jobs(options.jobs) if options.jobs else None
    _read(files, intake, options, reviewers, jobs, snapshot)
    intake.problems += reviewers.problems()
    intake.refuse()
    put_together(intake)
    known = _known_labels(snapshot, intake)
    found = find_rows(snapshot, intake)
    decisions, tally = _decide(snapshot, intake, found, known)
    return Corrections(decisions, tally, _fields(files, options, jobs, reviewers))


def _files(uris: Sequence[str], options: Options) -> list[str]:
    if options.form != "x-anylabeling":
        return list(uris)
    return [file for uri in uris for file in label_files(uri)]


def _read(
    files: Sequence[str],
    intake: Intake,
    options: Options,
    reviewers: Reviewers,
    jobs: Jobs | None,
    snapshot: Snapshot,
) -> None:
    if options.form == "x-anylabeling":
        read_x_anylabeling(files, intake)
        return
    for uri in files:
        if options.form == "label-studio":
            read_label_studio(uri, intake, options.choice)
        elif options.form == "cvat":
            read_cvat(uri, intake, jobs, reviewers)
        elif options.form == "coco":
            read_coco(uri, intake, reviewers)
        else:
            read_as_corrections(uri, intake, snapshot)


def _known_labels(snapshot: Snapshot, intake: Intake) -> dict[str, int]:
    """Category id of each name in the file. Raises Refused for names that the run does not have."""
    ours = [category for category in snapshot.run.vocabulary().categories if not category.negative]
    labels = {label: image.where for image in reversed(intake.images) for label in reversed(image.labels)}
    alike = same_name([Category(0, label, ()) for label in labels], ours)
    names = [category.name for category in ours]
    problems = [
        f'"{label}" ({where}) is not a category of the run{did_you_mean(label, names)}'
        for (label, where), category in zip(labels.items(), alike, strict=True)
        if category is None
    ]
    if problems:
        raise refused(intake.source, problems)
    return {label: category.id for label, category in zip(labels, alike, strict=True) if category is not None}


def _decide(
    snapshot: Snapshot, intake: Intake, found: Sequence[ReviewedRow | None], known: Mapping[str, int]
) -> tuple[dict[RowKey, Decision], Tally]:
    wanted = {row.key: (image, row) for image, row in zip(intake.images, found, strict=True) if row is not None}
    tally = Tally(enveloped=intake.enveloped)
    tally.images.update(unreviewed=intake.unreviewed, skipped=intake.skipped, forgotten=found.count(None))
    decisions: dict[RowKey, Decision] = {}
    problems: list[str] = []
    named = near = 0
    for read, row, earlier in _with_detections(snapshot, wanted):
        image = read.of_row(row.key)
        if wrong := _wrong_boxes(image, row.size, earlier, clipped=intake.envelopes):
            problems += wrong
            continue
        ids = np.array([known[label] for label in image.labels], np.int32)
        decision = decide(image, ids, earlier, row.size)
        decisions[row.key] = decision
        tally.add(decision, earlier)
        counts = agreement(image, earlier)
        named, near = named + counts[0], near + counts[1]
    if problems:
        raise refused(intake.source, problems)
    if not intake.names_run and named >= _FEW and 2 * near < named:
        raise Refused(
            f"corrections {intake.source} seem to be of another run than {snapshot.run.manifest.run_id}: of {named:,} "
            f"boxes with an id, {near:,} lie where the run has that box; give the run that was exported"
        )
    return decisions, tally


def _with_detections(
    snapshot: Snapshot, wanted: Mapping[RowKey, tuple[Reviewed, ReviewedRow]]
) -> Iterable[tuple[Reviewed, ReviewedRow, Detections]]:
    """Each image with its row's detections, in the order of the run."""
    units = {row.unit for _, row in wanted.values()}
    columns = ("shard_id", "index", WITHOUT_MASKS)
    for _, table in snapshot.only(units).units(columns):
        keys = zip(table["shard_id"].to_pylist(), table["index"].to_pylist(), strict=True)
        mine = [(place, wanted[key]) for place, key in enumerate(keys) if key in wanted]
        rows = DetectionsColumn(table.take(pa.array([place for place, _ in mine]))).per_row(masks=False)
        yield from ((*pair, detections) for (_, pair), detections in zip(mine, rows, strict=True))


def _wrong_boxes(image: Reviewed, size: tuple[int, int], earlier: Detections, *, clipped: bool) -> list[str]:
    """Return what is wrong with the boxes of an image; of envelopes that are `clipped` only what has nothing inside.

    A box that is as the run has it, or as it was exported, is not wrong: the run's boxes may reach out of the image,
    too, and those that lie outside have no area within it.
    """
    if image.state == BOXES:
        return []
    height, width = size
    limit = np.array([width, height, width, height])
    ours = np.concatenate([earlier.boxes, clip_to_image(earlier.boxes, height=height, width=width)])
    problems = []
    for number, (box, label) in enumerate(zip(image.boxes, image.labels, strict=True)):
        if (np.abs(ours - box) < SAME_PX).all(1).any():
            continue
        inside = np.clip(box, 0, limit)
        corners = ", ".join(f"{side:.1f}" for side in box)
        if not (inside[2] > inside[0] and inside[3] > inside[1]):
            problems.append(f'{image.where}: box {number} "{label}" ({corners}) has no area in the image; remove it')
        elif not clipped and np.abs(inside - box).max() > _OUTSIDE_PX:
            problems.append(
                f'{image.where}: box {number} "{label}" ({corners}) reaches out of the image of {width} x {height}; '
                "draw it inside"
            )
    return problems


def _fields(files: Sequence[str], options: Options, jobs: Jobs | None, reviewers: Reviewers) -> dict[str, Any]:
    """The fingerprint's field: all that decides the corrected rows beside the run."""
    digest = new_digest()
    for uri in files:
        digest.update(_digest(uri).encode())
    said: dict[str, Any] = {"version": VERSION, "from": options.form, "files": digest.hexdigest()}
    if jobs is not None:
        said["jobs"] = digest_of(canonical_json([list(each) for each in jobs.ranges]))
    if reviewers.tells:
        said["reviewed"] = "all" if reviewers.everything else digest_of(canonical_json(sorted(reviewers.names)))
    if options.choice != AnnotationChoice():
        said["annotations"] = {"annotator": options.choice.annotator, "newest": options.choice.newest}
    if options.envelopes:
        said["envelopes"] = True
    return {"correction": said}


def _digest(uri: str) -> str:
    digest = new_digest()
    with storage.open_stream(uri) as stream:
        while data := stream.read(_PIECE):
            digest.update(data)
    return digest.hexdigest()

"""Runs of several detectors over the same images become one derived run: `labeler fuse`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import storage
from labeler.calibration.scale import ScoreScale, read_scale
from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused, first_lines
from labeler.labeling.resolve import Job, s3_rules
from labeler.labels.detections import Detections
from labeler.labels.fusion import BoxFusion
from labeler.labels.records import Row
from labeler.pipeline.derive import config_of
from labeler.pipeline.rewrite import rewrite
from labeler.pipeline.session import Outcome, refusals
from labeler.runs import Run, Snapshot, UnitKey, layout, open_run, read_snapshot
from labeler.runs.erasure.made import note_made
from labeler.runs.fitted_on import score_fields
from labeler.runs.overlay.partner import ImageIdentity, Partner, PartnerRow, open_partner
from labeler.truth.category_names import same_name
from labeler.vocabulary import Category

# Raise when equal runs and options would give other rows.
FUSION_VERSION = 1
WITHOUT = "fused without run "  # in `error` of a row: what another run has not said of the image
_MOST_PROBLEMS = 20
_OF_OTHERS = ("score2", "unscored", "review", "source", "model_score")  # columns that a fused box cannot have


@dataclass(frozen=True)
class FusedRun:
    """One of the runs.

    Attributes:
        scale: brings its scores to the common scale; None: they stay.
        category_ids: its ids -> those of the first run.
        is_first: its prompts are those of the fused run, so that chunks mean the same there.
    """

    snapshot: Snapshot
    scale: ScoreScale | None
    category_ids: Mapping[int, int]
    is_first: bool

    @property
    def run(self) -> Run:
        return self.snapshot.run

    def comparable(self, found: Detections) -> Detections:
        """Detections with ids and scores as the fusion takes them; the chunk is -1 where it was of other prompts."""
        scores = found.scores if self.scale is None else self.scale.apply(found.scores)
        ids = np.array([self.category_ids[id_] for id_ in found.category_ids.tolist()], np.int32)
        chunks = found.chunks if self.is_first else np.full(len(found), -1, np.int16)
        return replace(found, scores=scores, category_ids=ids, chunks=chunks, more={})


@dataclass(frozen=True)
class FusionJob:
    """A fusion with all that it needs found and checked."""

    job: Job
    fusion: BoxFusion
    sources: tuple[FusedRun, ...]
    lines: tuple[str, ...]  # about its choices, for people


def resolve_fusion(
    runs: Sequence[Run], fusion: BoxFusion, output: str, *, calibrations: Sequence[str] | None
) -> FusionJob:
    """Check that runs can be fused.

    Args:
        runs: the first is the parent of the fused run.
        calibrations: a file of `labeler calibrate` per run; None: scores are compared as they are.

    Raises:
        Refused: fewer than two runs, or one twice, or incomplete; categories that the first run does not have; a run
            without calibration, or calibrated as another; columns or masks that cannot be fused.
    """
    _require_runs(runs)
    with refusals():
        snapshots = [read_snapshot(run) for run in runs]
        for snapshot in snapshots:
            if snapshot.left:
                shown = storage.redact(snapshot.run.uri)
                raise Refused(f"run {shown} has {len(snapshot.left)} unfinished shards; finish it first")
        scales = _scales(runs, calibrations)
        ids = [_category_ids(runs[0], run) for run in runs]
    sources = tuple(map(FusedRun, snapshots, scales, ids, [True, *[False] * (len(runs) - 1)]))
    masks, lines = _masks_fields(runs, fusion)
    config = config_of(runs[0], output, ())
    s3_rules(config, tuple(folder for run in runs for folder in run.lineage)).apply()
    fusion = replace(fusion, max_detections=config.detect.max_detections)
    floor = config.detect.model_copy(update={"score_floor": 0.0})  # a box that few runs have falls below theirs
    config = config.model_copy(update={"detect": floor, "masks": config.masks if fusion.method == "nms" else None})
    job = Job(
        config,
        runs[0].vocabulary(),
        runs[0].prompts(),
        None,
        _fields(sources, fusion, masks),
        own=runs[0].lineage,
    )
    return FusionJob(job, fusion, sources, lines)


def fuse(job: FusionJob) -> tuple[Outcome, list[str]]:
    """Make the fused run, or continue where that stopped. No image is read.

    Returns:
        The fused run; lines about images that only another run has.

    Raises:
        Refused: a run is over other images than the first, or the output holds something else.
        StorageError: a row cannot be read or written.
    """
    first, *others = job.sources
    output = job.job.config.output.uri
    with tempfile.TemporaryDirectory(prefix="labeler-fuse-") as folder:
        with refusals():
            _require_unchanged(output, job)
            done = _done(output)
            pending = [unit for unit in first.snapshot.unit_keys() if unit not in done]
            partners = [
                open_partner(first.snapshot, each.snapshot, pending, Path(folder), masks=job.fusion.method == "nms")
                for each in others
            ]

        def note() -> None:
            for each in others:  # before the first row: `forget` in any of them is to name the fusion
                note_made(each.run, output)

        outcome = rewrite(first.run, job.job, _Fused(job, partners), before_rows=note)
    return outcome, [
        f"not fused   {each.alone:,} images of run {storage.redact(each.run.uri)} that the first run does not have"
        for each in partners
        if each.alone
    ]


def lines_of(outcome: Outcome) -> list[str]:
    """Return how many images were fused from fewer runs, why, and how to list them."""
    uri = storage.redact(outcome.run.uri)
    return [
        f"fewer runs  {count:,} images: {error}; list them: "
        f"labeler export {uri} --to coco --where \"error = '{error}'\""
        for error, count in outcome.report.errors.items()
        if WITHOUT in error
    ]


def _done(output: str) -> set[UnitKey]:
    run = open_run(output)
    if run is None or run.parent is None:
        return set()
    own = read_snapshot(run).progress.folders[0][1]
    return {(shard_id, unit) for shard_id, units in own.items() for unit in units}


def _require_unchanged(output: str, job: FusionJob) -> None:
    """Raises Refused, naming the run, if another one has grown or changed since the fusion in `output` was made."""
    run = open_run(output)
    recorded, now = run.manifest.fingerprint_fields if run else {}, job.job.fields
    if recorded.get("fused.runs") != now["fused.runs"]:
        return
    for source, was, is_ in zip(job.sources, recorded.get("fused.units", ()), now["fused.units"], strict=False):
        if was != is_:
            raise Refused(
                f"run {storage.redact(source.run.uri)} has other units than when the fusion in "
                f"{storage.redact(output)} was started; fuse again with another --output"
            )


def _units_of(snapshot: Snapshot) -> str:
    """A digest of which units a run has committed, in which of its folders."""
    folders = [
        [number, shard_id, sorted(units)]
        for number, (_, shards) in enumerate(snapshot.progress.folders)
        for shard_id, units in sorted(shards.items())
        if units
    ]
    return digest_of(canonical_json(folders))


def _require_runs(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise Refused("a fusion takes two runs or more; name the others after the first")
    ids = [run.manifest.run_id for run in runs]
    for run in runs:
        if ids.count(run.manifest.run_id) > 1:
            raise Refused(f"run {storage.redact(run.uri)} is given twice: it would agree with itself")
        if lost := [name for name in run.columns if name in _OF_OTHERS]:
            raise Refused(
                f"run {storage.redact(run.uri)} has the column {lost[0]}, which a fused box cannot keep; fuse the run "
                "that it was derived from"
            )


def _scales(runs: Sequence[Run], calibrations: Sequence[str] | None) -> list[ScoreScale] | list[None]:
    if calibrations is None:
        return [None] * len(runs)
    uris = list(calibrations) or [run.path(layout.THRESHOLDS) for run in runs]
    if len(uris) != len(runs):
        raise Refused(f"--calibration is given {len(uris)} times for {len(runs)} runs; give a file per run, in order")
    for run, uri in zip(runs, uris, strict=True):
        if not calibrations and storage.head(uri) is None:
            raise Refused(
                f"run {storage.redact(run.uri)} has no calibration: its scores may mean something else than those of "
                "the other runs; run `labeler calibrate` on it, give --calibration, or fuse with --raw-scores"
            )
    return [read_scale(storage.absolute_uri(uri), run) for run, uri in zip(runs, uris, strict=True)]


def _category_ids(first: Run, run: Run) -> dict[int, int]:
    """Its category ids -> those of the first run, by name. Raises Refused, listing names that the first run lacks."""
    ours, theirs = _positive(first), _positive(run)
    found = same_name(theirs, ours)
    unknown = [f'"{c.name}" (id {c.id})' for c, same in zip(theirs, found, strict=True) if same is None]
    if unknown:
        raise Refused(
            f"run {storage.redact(run.uri)} has {len(unknown):,} categories that run {storage.redact(first.uri)} does "
            "not have; put the run with all names first, or label with the same vocabulary",
            first_lines(unknown, _MOST_PROBLEMS),
        )
    return {c.id: same.id for c, same in zip(theirs, found, strict=True) if same is not None}


def _positive(run: Run) -> list[Category]:
    return [category for category in run.vocabulary().categories if not category.negative]


def _masks_fields(runs: Sequence[Run], fusion: BoxFusion) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the fingerprint's fields about masks, what to say of them)."""
    each = [
        {name: value for name, value in run.manifest.fingerprint_fields.items() if name.split(".")[0] == "masks"}
        for run in runs
    ]
    made = [fields for fields in each if fields.get("masks") is not None]
    if fusion.method == "wbf":
        said = f"masks       dropped: fused boxes are others than those that masks were made for ({len(made)} runs)"
        return {"masks": None}, (said,) if made else ()
    if made and not all(fields == each[0] for fields in each):
        raise Refused(
            "the runs have masks of different models, or some have none; fuse the runs that the masks were made for, "
            "then `labeler mask` the result"
        )
    return each[0], ()


def _fields(sources: Sequence[FusedRun], fusion: BoxFusion, masks: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint's fields. `open_derived` adds what a derived run has in any case."""
    recorded = sources[0].run.manifest.fingerprint_fields
    scales = [source.scale and digest_of(canonical_json(list(source.scale.to_dict().items()))) for source in sources]
    return {
        **{name: value for name, value in recorded.items() if name.split(".")[0] not in ("masks", "fused")},
        **masks,
        "detect.score_floor": 0.0,
        "columns": ["agreement"],
        "fused.runs": [source.run.manifest.run_id for source in sources],
        "fused.with": [digest_of(canonical_json(score_fields(source.run))) for source in sources],
        # Rows of the others are read by what they have; the first is the parent, whose new units are simply added.
        "fused.units": [None, *(_units_of(source.snapshot) for source in sources[1:])],
        "fused.method": fusion.method,
        "fused.iou": fusion.iou,
        "fused.scores": None if scales[0] is None else scales,
        "fused.version": FUSION_VERSION,
    }


@dataclass(frozen=True)
class _Fused:
    """Makes the fused rows of a unit; called in threads."""

    job: FusionJob
    partners: Sequence[Partner]

    def __call__(self, unit: UnitKey, rows: Sequence[Row]) -> list[Row]:
        places = [ImageIdentity(row.index, row.digest, row.uri) for row in rows]
        ours = [PartnerRow(row.status, row.detections, row.asked) for row in rows]
        images = list(zip(ours, *(each.find(unit, places) for each in self.partners), strict=True))
        seen = [self._of_image(found) for found in images]
        detections = self.job.fusion.apply([each[0] for each in seen], [each[1] for each in seen])
        return [
            replace(
                row,
                status="labeled" if len(found) else "empty",
                detections=found,
                error="; ".join([*([row.error] if row.error else []), *self._without(image)]) or None,
                asked=None if row.asked is None else _union(row.asked, self.job.sources, image),
            )
            for row, found, image in zip(rows, detections, images, strict=True)
        ]

    def _of_image(self, image: Sequence[PartnerRow | None]) -> tuple[list[Detections], npt.NDArray[np.int64]]:
        """(detections of the runs that labeled it, (n,) how many of these looked for the category of each)."""
        labeled = [
            (source, found, found.detections)
            for source, found in zip(self.job.sources, image, strict=True)
            if found is not None and found.detections is not None
        ]
        runs = [source.comparable(detections) for source, _, detections in labeled]
        ids = np.concatenate([run.category_ids for run in runs])
        return runs, sum((_looked_for(source, found, ids) for source, found, _ in labeled), np.zeros(len(ids), int))

    def _without(self, image: Sequence[PartnerRow | None]) -> list[str]:
        return [
            f"{WITHOUT}{source.run.manifest.run_id}: {'not in it' if found is None else found.status}"
            for source, found in zip(self.job.sources, image, strict=True)
            if found is None or found.detections is None
        ]


def _looked_for(source: FusedRun, found: PartnerRow, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(n,) 1 where a run looked for a category of the first run in an image."""
    names = source.category_ids
    asked = names.values() if found.asked is None else (names[id_] for id_ in found.asked if id_ in names)
    return np.isin(ids, list(asked)).astype(np.int64)


def _union(asked: Sequence[int], sources: Sequence[FusedRun], image: Sequence[PartnerRow | None]) -> list[int]:
    """The categories of the first run that any run has looked for in an image, where the first was `asked` for some."""
    ids = set(asked)
    for source, found in zip(sources, image, strict=True):
        if found is not None and found.detections is not None:
            known = source.category_ids
            ids |= set(known.values() if found.asked is None else (known[id_] for id_ in found.asked if id_ in known))
    return sorted(ids)

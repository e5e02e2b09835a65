"""Labels that were made elsewhere become a run: `labeler import`. Reads every image once, here; no Ray, no GPU."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler import images, storage
from labeler.config import Config
from labeler.digests import canonical_json, digest_of
from labeler.errors import Refused, first_lines
from labeler.file_names import NameIndex, comparable, last_part
from labeler.imports.boxes import ImportCounts, ImportedBoxes
from labeler.imports.labels import Labels
from labeler.labeling.resolve import Job, plan_input, s3_rules
from labeler.labeling.unit import undetected_row
from labeler.labels.extensions import schema_fields
from labeler.labels.records import DECODING_VERSION, UNLISTED, Row, rows_to_table, table_to_parquet, table_to_rows
from labeler.labels.unit_work import UnitWork
from labeler.pipeline.session import Outcome, finish, new_run, refusals
from labeler.prompts.grounding_dino import Prompts
from labeler.runs import Run, Snapshot, UnitKey, layout, open_run, read_snapshot
from labeler.runs.create import create_run, require_free_or_ours
from labeler.runs.plan import read_plan, with_members
from labeler.runs.timeline import stamp
from labeler.shards import READER_VERSION, Item, ShardEnd, read_units, skipped
from labeler.truth.alignment import ImageMatch, match_images
from labeler.truth.category_names import one_name, same_name
from labeler.truth.ground_truth import MAX_PROBLEMS
from labeler.vocabulary import Category, Vocabulary

# Raise when the same file and images would give other rows.
IMPORT_VERSION = 1
MOST_UNIT_IMAGES = 256
_AHEAD = 64  # images decoded ahead


def import_labels(labels: Labels, config: Config, vocabulary: Vocabulary | None) -> tuple[Outcome, list[str]]:
    """Make a run of labels; again after an interruption, the same one.

    Args:
        config: input, output, and the spec of the vocabulary.
        vocabulary: categories meet it by name; None: the file's own.

    Returns:
        The run; lines about what did not meet.

    Raises:
        Refused: no image or category meets, an image has another size in the file, or the output holds something else.
        StorageError: an image or row cannot be read or written.
    """
    output, counts = config.output.uri, ImportCounts()
    with refusals():
        s3_rules(config).apply()
        vocabulary, ids = _categories(labels, vocabulary)
        job = _job(labels, config, vocabulary)
        run = open_run(output)
        if run is not None:
            run.require_fingerprint(job.fields)
            if (before := read_snapshot(run)).is_complete:
                return finish(before), []
        else:
            require_free_or_ours(output)
            storage.check_put_if_absent(output, single_writer=config.output.single_writer)
        beside = Counter[str]()
        plan = plan_input(config, counts=beside)
    with tempfile.TemporaryDirectory(prefix="labeler-import-") as folder:
        # The images alone are a run, too: so they are matched with the file as any run is with ground truth.
        bare = create_run(storage.join(folder, "run"), new_run(job, plan=plan))
        _describe(bare, config)
        snapshot = read_snapshot(bare)
        with refusals():
            write = _writer(snapshot, labels, ids, counts)
            if run is None:
                new = new_run(job, plan=plan, skipped_files=beside)
                run = create_run(output, new, single_writer=config.output.single_writer)
        write(run)
    outcome = finish(read_snapshot(run))
    return outcome, counts.lines(labels)


def _categories(labels: Labels, vocabulary: Vocabulary | None) -> tuple[Vocabulary, list[int | None]]:
    """(the run's categories, the id of each category of the file; None for one without boxes that has none)."""
    truth = labels.truth
    if vocabulary is None:
        if not labels.categories:
            raise Refused(f"annotations {truth.source}: no categories in it; give --vocabulary")
        plain = [_plain(category) for category in labels.categories]
        return Vocabulary.load(plain), [category.id for category in truth.categories]
    ours = [category for category in vocabulary.categories if not category.negative]
    found, used = same_name(truth.categories, ours), truth.objects_by_category() > 0
    unknown = [
        f'"{category.name}" ({count:,} boxes)'
        for category, same, count in zip(truth.categories, found, truth.objects_by_category().tolist(), strict=True)
        if same is None and count
    ]
    if problems := [*unknown, *one_name(truth.categories, found)]:
        raise Refused(
            f"{truth.source} has {len(problems):,} categories that vocabulary {vocabulary.name} does not have, or has "
            "as one; add them to the vocabulary, or leave --vocabulary out",
            first_lines(problems, MAX_PROBLEMS),
        )
    assert all(same is not None for same, has_boxes in zip(found, used, strict=True) if has_boxes)
    return vocabulary, [None if same is None else same.id for same in found]


def _plain(category: Category) -> dict[str, Any]:
    plain = {"id": category.id, "name": category.name}
    plain |= {"supercategory": category.supercategory} if category.supercategory else {}
    return plain | ({"frequency": category.frequency} if category.frequency else {})


def _job(labels: Labels, config: Config, vocabulary: Vocabulary) -> Job:
    prompts = Prompts((), vocabulary.negative_ids, 256)  # nothing was asked for
    columns = ["unscored"] if np.isnan(labels.scores).any() else []
    fields = {
        "imported": labels.digest,
        "import_version": IMPORT_VERSION,
        "model": None,
        "vocabulary": vocabulary.fingerprint,
        "prompts": prompts.fingerprint,
        "masks": f"imported {labels.digest}" if labels.segmentations else None,
        "decoding_version": DECODING_VERSION,
        "reader_version": READER_VERSION,
        "unit.max_images": config.unit.images,
        "unit.max_bytes": config.unit.max_bytes,
        "unit.max_image_bytes": config.unit.max_image_bytes,
        "input.keep": [],
        "input.image_column": config.input.image_column,
        "input": digest_of(canonical_json([storage.redact(uri) for uri in config.input_uris])),
        **schema_fields(columns),
    }
    return Job(config, vocabulary, prompts, None, fields)


def _describe(bare: Run, config: Config) -> None:
    """Write a row without detections per image: its digest and size, or why it cannot be read."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for planned in read_plan(bare):
            shard = with_members(planned.shard, bare.uri)
            works = read_units(
                shard,
                max_images=config.unit.images,
                max_bytes=config.unit.max_bytes,
                max_image_bytes=config.unit.max_image_bytes,
                image_column=config.input.image_column,
            )
            for work in works:
                if isinstance(work, ShardEnd):
                    end = bare.path(layout.end_marker(work.shard_id, work.units, work.images))
                    storage.put(end, skipped.to_bytes(work.skipped))
                    continue
                rows = list(_ahead(pool, partial(_row, work.shard_id), work.items))
                unit = bare.path(layout.unit_file(work.shard_id, work.unit))
                storage.put(unit, table_to_parquet(rows_to_table(rows), {}))


def _ahead(pool: ThreadPoolExecutor, make: Callable[[Item], Row], items: Sequence[Item]) -> Iterator[Row]:
    for start in range(0, len(items), _AHEAD):
        yield from pool.map(make, items[start : start + _AHEAD])


def _row(shard_id: str, item: Item) -> Row:
    row = undetected_row(shard_id, item, ())
    if item.data is None or item.error is not None:
        return replace(row, error=item.error or "no data")
    try:
        image = images.decode(item.data)
    except images.ImageError as error:
        return replace(row, status=error.status, error=str(error))
    row = replace(row, width=image.width, height=image.height, orientation=image.orientation)
    return replace(row, status="empty", phash=images.phash(image.pixels))


def _writer(
    snapshot: Snapshot, labels: Labels, ids: Sequence[int | None], counts: ImportCounts
) -> Callable[[Run], None]:
    """Match images, and return what writes the rows."""
    labels = _named(snapshot, labels)
    truth = labels.truth
    match = match_images(snapshot, truth)
    if match.resized:
        raise Refused(
            f"{truth.source} gives {len(match.resized):,} images another size than they have with EXIF orientation "
            "applied, so its boxes would be elsewhere; correct width and height, or the boxes",
            first_lines(list(match.resized), MAX_PROBLEMS),
        )
    counts.unmatched = [name for name, there in zip(truth.file_names, match.present, strict=True) if not there]
    boxes = ImportedBoxes(labels, ids, _sizes(snapshot, match, len(truth.image_ids)), counts)

    def write(run: Run) -> None:
        for unit, table in snapshot.units():
            places = match.rows.get(unit, np.full(len(table), -1, np.int32))
            rows = [
                _labeled(row, place, boxes) for row, place in zip(table_to_rows(table), places.tolist(), strict=True)
            ]
            _put(run, unit, rows)
        for shard_id, end in snapshot.progress.ends.items():
            marker = layout.end_marker(shard_id, *end)
            body = storage.read_bytes(snapshot.run.path(marker))
            storage.put_if_absent(run.path(marker), body, single_writer=_single(run))

    return write


def _sizes(snapshot: Snapshot, match: ImageMatch, count: int) -> npt.NDArray[np.int32]:
    """(images of the file, 2) height and width; 0 of those that are not in the input, or could not be read."""
    sizes = np.zeros((count, 2), np.int32)
    for unit, table in snapshot.units(("height", "width")):
        if unit in match.rows:
            found = np.stack([table[side].fill_null(0).to_numpy() for side in ("height", "width")], 1)
            there = match.rows[unit] >= 0
            sizes[match.rows[unit][there]] = found[there]
    return sizes


def _labeled(row: Row, place: int, boxes: ImportedBoxes) -> Row:
    if row.status != "empty":
        boxes.counts.unread += place >= 0
        return row
    if place < 0:
        boxes.counts.unlisted += 1
        return replace(row, status=UNLISTED)
    found = boxes.of(place, row)
    return replace(row, status="labeled" if len(found) else "empty", detections=found)


def _put(run: Run, unit: UnitKey, rows: Sequence[Row]) -> None:
    metadata = {"run_id": run.manifest.run_id, **UnitWork().to_metadata(), **stamp(time.time())}
    data = table_to_parquet(rows_to_table(rows, (), run.columns), metadata)
    storage.put_if_absent(run.path(layout.unit_file(*unit)), data, single_writer=_single(run))


def _single(run: Run) -> bool:
    return bool(run.manifest.config["output"]["single_writer"])


def _named(snapshot: Snapshot, labels: Labels) -> Labels:
    """Labels whose images have the file names of the run where their digests are there, or names without extension."""
    names, digests = list(labels.truth.file_names), labels.digests
    by_digest: dict[str, list[str]] = {}
    wanted = {digest for digest in digests if digest is not None}
    known: list[str] = []
    for unit, table in snapshot.units(("image_key", "digest")):
        for key, digest in zip(table["image_key"].to_pylist(), table["digest"].to_pylist(), strict=True):
            name = snapshot.prefixes[unit[0]] + key
            if digest in wanted:
                by_digest.setdefault(digest, []).append(name)
            if labels.stems:
                known.append(name)
    taken = Counter(digests)  # two entries for one image's bytes keep their names
    for place, digest in enumerate(digests):
        if digest is not None and digest in by_digest and taken[digest] == 1:
            names[place] = _meant(names[place], by_digest[digest], stems=labels.stems)
    if labels.stems:
        names = _with_extensions(names, known)
    return replace(labels, truth=replace(labels.truth, file_names=tuple(names)))


def _meant(name: str, twins: Sequence[str], *, stems: bool) -> str:
    """The image of this name among those with its bytes, else the first of them."""
    wanted = comparable(name)
    return next((twin for twin in twins if comparable(_stem(twin) if stems else twin) == wanted), twins[0])


def _with_extensions(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names without extension as the one name that they are meant as; those that are none, or several, stay."""
    whole = NameIndex(_stem(name) for name in known)
    last = NameIndex(_stem(last_part(name)) for name in known)
    exact = set(known)
    found = []
    for name in names:
        places = whole.find(name) or last.find(last_part(name))
        found.append(name if name in exact or len(places) != 1 else known[places[0]])
    return found


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name

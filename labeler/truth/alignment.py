"""Which images and categories of a run are which of the ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labeler.errors import Refused, did_you_mean, first_lines
from labeler.file_names import NameIndex, last_part
from labeler.labels.records import LABELED, UNLISTED
from labeler.runs import Snapshot, UnitKey
from labeler.truth.category_names import one_name, same_name
from labeler.truth.ground_truth import MAX_PROBLEMS, GroundTruth
from labeler.vocabulary import Category, Vocabulary

_COLUMNS = ("image_key", "shard_id", "digest", "status", "width", "height")
Positions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class CategoryMatch:
    """Match of the categories of a run and of ground truth.

    Attributes:
        position_of: the run's category id -> position in the ground truth.
        missing: categories that have objects and that the run did not look for; only with `partial`.
        unjudged: categories of the run that the ground truth does not have: nothing says whether they are right.
    """

    position_of: dict[int, int]
    missing: tuple[Category, ...]
    unjudged: tuple[Category, ...]


def match_categories(
    vocabulary: Vocabulary, truth: GroundTruth, *, by_name: bool = False, partial: bool = False
) -> CategoryMatch:
    """Return categories agree in id and name, spelled alike but for case, underscores and spaces.

    Args:
        by_name: the name alone decides; for vocabularies numbered in another way.
        partial: omit categories that the run did not look for.

    Raises:
        Refused: one id for two names, or one name under two ids, or a category with objects that the run did not look
            for; every one named, with the nearest name.
    """
    ours = [category for category in vocabulary.categories if not category.negative]
    by_id = {category.id: category for category in ours}
    has_objects = truth.objects_by_category() > 0
    alike = same_name(truth.categories, ours)
    position_of: dict[int, int] = {}
    missing: list[Category] = []
    problems = one_name(truth.categories, alike) if by_name else []
    for position, (theirs, named) in enumerate(zip(truth.categories, alike, strict=True)):
        same_id = by_id.get(theirs.id)
        if named and (by_name or named.id == theirs.id):
            position_of.setdefault(named.id, position)
        elif named and not by_name and has_objects[position]:
            problems.append(f'"{theirs.name}" has id {theirs.id} in the annotations and {named.id} in the run')
        elif same_id and not by_name:
            problems.append(f'id {theirs.id} is "{theirs.name}" in the annotations and "{same_id.name}" in the run')
        elif has_objects[position]:
            missing.append(theirs)
    names = [category.name for category in ours]
    lacking = [f'id {c.id} "{c.name}" is not in the run{did_you_mean(c.name, names)}' for c in missing if not partial]
    if problems or lacking or not position_of:
        raise _mismatch(truth, problems, lacking)
    unjudged = tuple(category for category in ours if category.id not in position_of)
    return CategoryMatch(position_of, tuple(missing), unjudged)


def _mismatch(truth: GroundTruth, problems: list[str], lacking: list[str]) -> Refused:
    lines = problems + lacking
    options = ("--categories-by-name matches by name alone", "--partial excludes what the run did not look for")
    advice = options[0] if problems else options[1]
    return Refused(
        f"the run's categories are not those of annotations {truth.source} ({len(lines)} of {len(truth.categories)} "
        f"do not match); {advice}",
        first_lines(lines, MAX_PROBLEMS),
    )


@dataclass(frozen=True)
class ImageMatch:
    """Match of the images of a run and of ground truth.

    Attributes:
        rows: of each unit that holds any image of the ground truth: the position of each of its rows there, -1 for
            none.
        present: (images of the ground truth,) bool.
        failed: images of the ground truth that the run could not label, by status.
        others: images of the run that the ground truth does not have.
        resized: names of images whose size in the run is not the one in the annotations.
    """

    rows: dict[UnitKey, Positions]
    present: npt.NDArray[np.bool_]
    failed: dict[str, int]
    others: int
    resized: tuple[str, ...]


@dataclass
class _RowClaims:
    """The best row so far for each image of the ground truth.

    A row with exactly the file name is better than one with another spelling of it, which is better than one with only
    the same last part. Among equals, a labeled row is better than a failed one (a tar's repeated member is a failed row
    with the same name).
    """

    images: int
    rank: npt.NDArray[np.int8] = field(init=False)
    row: npt.NDArray[np.int64] = field(init=False)
    status: dict[int, str] = field(default_factory=dict)  # of failed ones
    doubled: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rank, self.row = np.full(self.images, -1, np.int8), np.full(self.images, -1, np.int64)

    def take(self, image: int, row: int, name: str, status: str, closeness: int) -> None:
        labeled = status in LABELED
        rank = 2 * closeness + labeled
        if rank == self.rank[image] and labeled:
            self.doubled[image] = name
        if rank > self.rank[image]:
            self.rank[image], self.row[image] = rank, row
            self.doubled.pop(image, None)
            self.status.pop(image, None)
            if not labeled:
                self.status[image] = status


class TruthNames:
    """The ground truth's images by name."""

    def __init__(self, truth: GroundTruth) -> None:
        require_distinct_names(truth)
        self._truth = truth
        self._whole, self._last = NameIndex(truth.file_names), NameIndex(map(last_part, truth.file_names))
        self._unclear: dict[str, list[int]] = {}

    def find(self, name: str) -> tuple[int, int]:
        """Return (image, how close its name is: 2 the very same, 1 another spelling, 0 its last part); image -1 for
        none.
        """
        whole = self._whole.find(name)
        if len(whole) == 1:
            return whole[0], 1 + (name in self._whole)
        if whole:
            self._unclear[name] = whole
        last = [] if whole else self._last.find(last_part(name))
        return (last[0] if len(last) == 1 else -1), 0

    def refuse_unclear(self) -> None:
        """Raise Refused if the name of an image of the run could be meant as several of the ground truth."""
        if self._unclear:
            problems = [
                f"{name!a}: {' or '.join(ascii(self._truth.file_names[image]) for image in images)}"
                for name, images in list(self._unclear.items())[:MAX_PROBLEMS]
            ]
            raise Refused(
                f"annotations {self._truth.source}: {len(self._unclear):,} images of the run could be several of "
                "theirs, whose names differ only in how they are spelled; spell them as the run does",
                problems,
            )


def match_images(snapshot: Snapshot, truth: GroundTruth) -> ImageMatch:
    """Match by `file_name` as exports write it, in any spelling, else by its last part where that is unique.

    Reads no detections.

    Raises:
        Refused: no image matches, two images of the run could be the same one of the ground truth, or images of one
            name have other digests.
    """
    prefixes = snapshot.prefixes
    names = TruthNames(truth)
    claims = _RowClaims(len(truth.file_names))
    starts: dict[UnitKey, int] = {}
    sizes: dict[int, tuple[int | None, int | None]] = {}
    others_bytes: dict[int, bool] = {}
    total = 0
    for unit, table in snapshot.units(_COLUMNS):
        starts[unit] = total
        for row in table.to_pylist():
            name = prefixes[row["shard_id"]] + row["image_key"]
            image, closeness = names.find(name)
            if row["status"] == UNLISTED:  # it is as if the run did not have the image
                image = -1
            if image >= 0:
                claims.take(image, total, name, row["status"], closeness)
                if claims.row[image] == total:
                    sizes[image] = (row["height"], row["width"])
                    known = truth.digests[image] if truth.digests else ""
                    others_bytes[image] = bool(known and row["digest"]) and known != row["digest"]
            total += 1
    names.refuse_unclear()
    if not (claims.row >= 0).any():
        example = f'such as "{truth.file_names[0]}"'
        where = f"none is in run {snapshot.run.manifest.run_id}"
        raise Refused(f"annotations {truth.source} are for other images ({example}): {where}")
    if claims.doubled:
        doubled = list(claims.doubled.items())[:MAX_PROBLEMS]
        raise Refused(
            f"{len(claims.doubled):,} images of annotations {truth.source} could be several images of the run; "
            "write `file_name` as `labeler export --to coco` does",
            [f"{truth.file_names[image]}: also {name}" for image, name in doubled],
        )
    _require_same_bytes(snapshot, truth, [image for image, differs in others_bytes.items() if differs])
    return ImageMatch(
        rows=_rows_by_unit(starts, total, claims.row),
        present=claims.row >= 0,
        failed=dict(Counter(claims.status.values())),
        others=total - int(np.count_nonzero(claims.row >= 0)),
        resized=tuple(truth.file_names[image] for image, size in sizes.items() if _differs(size, truth.sizes[image])),
    )


def _require_same_bytes(snapshot: Snapshot, truth: GroundTruth, others: list[int]) -> None:
    if others:
        raise Refused(
            f"{len(others):,} images of annotations {truth.source} have other bytes than those of run "
            f"{snapshot.run.manifest.run_id} with the same names, so they are other images; give the reviews of this "
            "run's images",
            [truth.file_names[image] for image in others[:MAX_PROBLEMS]],
        )


def require_distinct_names(truth: GroundTruth) -> None:
    """Raise Refused if two images have one file name: nothing else says which stored image is whose."""
    if len(set(truth.file_names)) < len(truth.file_names):
        twice = next(name for name, count in Counter(truth.file_names).items() if count > 1)
        raise Refused(f'annotations {truth.source}: two images have the file_name "{twice}"; images are matched by it')


def _differs(size: tuple[int | None, int | None], expected: Positions) -> bool:
    return None not in size and bool(expected.all()) and tuple(expected.tolist()) != size


def _rows_by_unit(
    starts: Mapping[UnitKey, int], total: int, claimed: npt.NDArray[np.int64]
) -> dict[UnitKey, Positions]:
    """Images' rows over the whole run -> positions by unit, for the units that have any."""
    position = np.full(total, -1, np.int32)
    position[claimed[claimed >= 0]] = np.flatnonzero(claimed >= 0)
    bounds = [*starts.values(), total]
    parts = {unit: position[start:stop] for unit, start, stop in zip(starts, bounds, bounds[1:], strict=False)}
    return {unit: part for unit, part in parts.items() if (part >= 0).any()}

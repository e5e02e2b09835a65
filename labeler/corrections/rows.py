"""Find the row of each reviewed image: by labeler's id, by digest, or by a name that tools may have rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labeler.corrections.reviewed import Intake, Reviewed, RowKey, refused
from labeler.errors import Refused
from labeler.file_names import NameIndex, last_part
from labeler.labels.records import LABELED
from labeler.runs import Snapshot, UnitKey

_COLUMNS = ("image_key", "shard_id", "index", "digest", "status", "width", "height")
_HASH = re.compile(r"^[0-9a-f]{8}-(?=.)")  # that Label Studio puts before the name of an uploaded file
_EXPORTED = re.compile(r"(?:^|/)(\d{6,18})[/-](\d{6,18})\.\w{1,5}$")  # how exports name their copies
_BY_ID, _BY_DIGEST, _BY_NAME, _BY_BOX_IDS, _BY_PART = 4, 3, 2, 1, 0


@dataclass(frozen=True)
class ReviewedRow:
    """The row of a reviewed image.

    Attributes:
        size: (height, width) of the upright image.
    """

    unit: UnitKey
    key: RowKey
    digest: str
    status: str
    size: tuple[int, int]


def find_rows(snapshot: Snapshot, intake: Intake) -> list[ReviewedRow | None]:
    """Return the row of each of the file's images; None for one that the run has removed since.

    Reads names, digests and sizes of the whole run, as a stream.

    Raises:
        Refused: images that are not in the run, that could be several of its rows, or that it has not labeled; two
            images of the file that are one row; an image of another size or with other bytes.
    """
    images, claims = intake.images, _ReviewClaims(intake.images)
    for unit, table in snapshot.units(_COLUMNS):
        for row in table.to_pylist():
            claims.offer(snapshot.prefixes[row["shard_id"]], unit, row)
    found = [claims.best(position) for position in range(len(images))]
    if images and not any(found) and not any(image.row for image in images):
        raise Refused(
            f"corrections {intake.source} are for other images (such as {images[0].where}): none is in run "
            f"{snapshot.run.manifest.run_id}; give the run that was exported"
        )
    problems = list(_problems(images, found))
    if problems:
        raise refused(intake.source, problems)
    return [rows[0] if rows[0].status in LABELED else None for rows in found]


class _ReviewClaims:
    """The rows that each image of the file could be, of the surest kind only."""

    def __init__(self, images: Sequence[Reviewed]) -> None:
        self._rank = [-1] * len(images)
        self._rows: list[list[ReviewedRow]] = [[] for _ in images]
        self._owners = [frozenset(image.owners) for image in images]  # choose among rows that the name could be
        self._by_row: dict[RowKey, list[int]] = {}
        self._by_digest: dict[str, list[int]] = {}
        self._by_copy: dict[RowKey, list[int]] = {}
        named: list[tuple[str, int]] = []
        for position, image in enumerate(images):
            if image.row is not None:
                self._by_row.setdefault(image.row, []).append(position)
                continue
            if image.digest:
                self._by_digest.setdefault(image.digest, []).append(position)
            for name in _spellings(image.name):
                named.append((name, position))
                if copy := _EXPORTED.search(name):
                    self._by_copy.setdefault((copy[1], int(copy[2])), []).append(position)
        self._positions = [position for _, position in named]
        self._whole, self._last = NameIndex(name for name, _ in named), NameIndex(last_part(name) for name, _ in named)

    def offer(self, prefix: str, unit: UnitKey, row: dict[str, object]) -> None:
        """Take a row of the run for the images that it could be."""
        key, digest, name = (
            (str(row["shard_id"]), int(str(row["index"]))),
            row["digest"],
            prefix + str(row["image_key"]),
        )
        wanted: dict[int, int] = {}
        kinds: Iterable[tuple[int, Iterable[int]]] = (
            (_BY_ID, self._by_row.get(key, ())),
            (_BY_DIGEST, self._by_digest.get(str(digest), ())),
            (_BY_NAME, self._named(self._whole.find(name))),
            (_BY_PART, self._named(self._last.find(last_part(name)))),
            (_BY_PART, self._by_copy.get(key, ())),
        )
        for rank, positions in kinds:
            for position in positions:
                named = rank == _BY_PART and key in self._owners[position]
                wanted.setdefault(position, _BY_BOX_IDS if named else rank)
        if not wanted:
            return
        size = int(str(row["height"] or 0)), int(str(row["width"] or 0))
        found = ReviewedRow(unit, key, str(digest or ""), str(row["status"]), size)
        for position, rank in wanted.items():
            if rank > self._rank[position]:
                self._rank[position], self._rows[position] = rank, []
            if rank == self._rank[position]:
                self._rows[position].append(found)

    def _named(self, places: Iterable[int]) -> list[int]:
        return [self._positions[place] for place in places]

    def best(self, position: int) -> list[ReviewedRow]:
        return self._rows[position]


def _spellings(name: str) -> list[str]:
    """Return a name as it is, and without the hash that an upload puts before its last part."""
    if not name:
        return []
    last = last_part(name)
    plain = _HASH.sub("", last)
    return [name] if plain == last else [name, name[: len(name) - len(last)] + plain]


def _problems(images: Sequence[Reviewed], found: Sequence[list[ReviewedRow]]) -> Iterable[str]:
    taken: dict[RowKey, Reviewed] = {}
    for image, rows in zip(images, found, strict=True):
        if not rows:
            yield f"{image.where} is not an image of the run"
            continue
        if len(rows) > 1:
            names = " or ".join(f"{shard}/{index}" for shard, index in (row.key for row in rows[:3]))
            yield f"{image.where} could be rows {names}; keep `labeler_row`, or the names that the export gave"
            continue
        (row,) = rows
        other = taken.setdefault(row.key, image)
        if other is not image:
            yield f"{image.where} and {other.where} are the same image of the run; keep one of them"
        elif row.status == "removed":
            continue
        elif row.status not in LABELED:
            yield f"{image.where}: the run could not label it ({row.status}), so there is nothing to correct"
        elif image.digest and image.digest != row.digest:
            yield f"{image.where}: its bytes are not those that the run has labeled"
        elif image.size is not None and image.size != row.size:
            theirs, ours = (f"{size[1]} x {size[0]}" for size in (image.size, row.size))
            yield f"{image.where} is {theirs} in the file and {ours} in the run; correct the copies that were exported"

"""`labeler compare`: two runs over the same images, box by box, each side at its own thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from labeler import storage
from labeler.errors import Refused, did_you_mean, first_lines
from labeler.images import MAX_PIXELS
from labeler.labels.contact_sheet import colour_of
from labeler.labels.detections import Detections
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.thresholds import Thresholds, as_written
from labeler.review import page
from labeler.review.differences import KINDS, PAIR_IOU, SAME_IOU, Difference, compare_boxes
from labeler.review.image_bytes import ImageReader
from labeler.review.join import Join, Pair, RowPlace, RunSide
from labeler.review.pictures import read_rows, shortest, thumbnails
from labeler.review.reservoir import Reservoir, in_turns
from labeler.runs import Run, read_snapshot
from labeler.truth.category_names import same_name
from labeler.truth.ground_truth import MAX_PROBLEMS
from labeler.vocabulary import Vocabulary

Select = Callable[[Detections], Detections]
_Shown = list[tuple[RowPlace, RowPlace]]  # images to show: where they lie on both sides, most wanted first
_SHOWN_KINDS = ("moved", "renamed", "lost", "added")
_EACH = 6  # images drawn of a category and kind
_MAX_BYTES = 19_000_000
_RENAMINGS = 100


@dataclass(frozen=True)
class ChangeCounts:
    """Changes of a category's boxes from the first run to the second.

    Attributes:
        first, second: boxes on each side.
        renamed, renamed_to: boxes of the first that are another category in the second, and the other way round.
    """

    first: int = 0
    second: int = 0
    same: int = 0
    moved: int = 0
    renamed: int = 0
    renamed_to: int = 0
    lost: int = 0
    added: int = 0

    @property
    def agreement(self) -> float | None:
        """Part of both sides' boxes that the other side has too, in place (IoU 0.5) and name; None without boxes."""
        both = self.first + self.second
        return 2 * (self.same + self.moved) / both if both else None


@dataclass(frozen=True)
class Comparison:
    """Two runs joined by the digest of their images.

    Attributes:
        images: in both runs, and labeled in both.
        identical: of these, images in which every box is the same.
        categories: by id of the first run.
        renamings: (id before, id after, boxes), the most frequent first.
        facts: plain data: counts of images that could not be compared, and what was excluded.
    """

    images: int
    identical: int
    categories: Mapping[int, ChangeCounts]
    renamings: tuple[tuple[int, int, int], ...]
    facts: dict[str, Any]

    @property
    def total(self) -> ChangeCounts:
        names = ChangeCounts.__dataclass_fields__
        return ChangeCounts(**{name: sum(getattr(one, name) for one in self.categories.values()) for name in names})


def numbers_uri(target_uri: str) -> str:
    """Return where the JSON file with a comparison's numbers goes: beside its page."""
    return f"{target_uri.removesuffix('.html')}.json"


def compare_runs(
    runs: tuple[Run, Run],
    thresholds: tuple[Thresholds, Thresholds],
    target_uri: str,
    *,
    partial: bool = False,
    max_images: int = 300,
    seed: int = 0,
) -> Comparison:
    """Compare and write the page, and the same numbers as JSON beside it.

    Reads every unit file of both runs once and writes their boxes above the thresholds to temporary files; memory holds
    one part of those, about 32 MB of label files, at a time.

    Args:
        thresholds: of each run.
        partial: incomplete runs too, and categories that only one of them has are excluded.

    Raises:
        Refused: an incomplete run, other categories (every one is named), or no image in common.
    """
    vocabularies = runs[0].vocabulary(), runs[1].vocabulary()
    to_first, left_out = match_categories(vocabularies, partial=partial)
    ids = {id_: id_ for id_ in to_first.values()}, to_first
    selects = selector(thresholds[0], ids[0]), selector(thresholds[1], ids[1])
    join = Join((_side(runs[0], selects[0], ids[0], partial), _side(runs[1], selects[1], ids[1], partial)))
    comparison, sample = _tally(join, sorted(set(to_first.values())), seed, max_images)
    if not comparison.images:
        raise Refused(
            f"runs {runs[0].manifest.run_id} and {runs[1].manifest.run_id} have no labeled image in common "
            "(images are joined by the digest of their bytes); compare runs over the same input"
        )
    comparison.facts["left_out"] = left_out
    data = _describe(runs, thresholds, comparison, vocabularies[0])
    storage.put(numbers_uri(target_uri), page.dump(data).encode() + b"\n")
    head = page.dump(data)
    images = _images(join, selects, sample, _MAX_BYTES - len(head))
    storage.put(
        target_uri,
        page.render(
            template="compare.html",
            scripts=("page.js", "pictures.js", "viewer.js", "compare.js"),
            title=f"Run {runs[0].manifest.run_id[:8]} against {runs[1].manifest.run_id[:8]}",
            data=f'{head[:-1]},"images":[{",".join(images)}]}}',
        ),
    )
    return comparison


def _side(run: Run, select: Select, ids: Mapping[int, int], partial: bool) -> RunSide:
    snapshot = read_snapshot(run)
    if not partial:
        snapshot.require_complete("compare what there is with --partial")
    return RunSide(snapshot, select, ids)


def match_categories(
    vocabularies: tuple[Vocabulary, Vocabulary], *, partial: bool
) -> tuple[dict[int, int], list[list[str]]]:
    """(second run's category id -> first run's, names that only one side has): names decide, whatever the ids."""
    first, second = ([c for c in v.categories if not c.negative] for v in vocabularies)
    pairs = list(zip(second, same_name(second, first), strict=True))
    common = {category.id: named.id for category, named in pairs if named}
    met = set(common.values())
    alone = [[c.name for c in first if c.id not in met], [c.name for c in second if c.id not in common]]
    if (any(alone) and not partial) or not common:
        others = [[c.name for c in side] for side in (second, first)]
        lines = [
            f'"{name}" is only in the {which} run{did_you_mean(name, names)}'
            for which, mine, names in zip(("first", "second"), alone, others, strict=True)
            for name in mine
        ]
        advice = "; --partial compares the others" if common else ""
        raise Refused(f"the two runs have other categories{advice}", first_lines(lines, MAX_PROBLEMS))
    return common, alone


def selector(thresholds: Thresholds, to_first: Mapping[int, int]) -> Select:
    """Keeps detections at or above their threshold, of the categories in `to_first`, under the ids it gives."""
    ids = np.array(sorted(to_first), np.int32)
    first = np.array([to_first[int(id_)] for id_ in ids], np.int32)

    def select(detections: Detections) -> Detections:
        kept = thresholds.apply(detections)
        kept = kept[np.isin(kept.category_ids, ids)]
        return replace(kept, category_ids=first[np.searchsorted(ids, kept.category_ids)])

    return select


class _Tally:
    """Counts differences image by image, and draws images to show."""

    def __init__(self, ids: Sequence[int], seed: int) -> None:
        self._place = {id_: place for place, id_ in enumerate(ids)}
        self._column = {name: place for place, name in enumerate(ChangeCounts.__dataclass_fields__)}
        self._counts = np.zeros((len(ids), len(self._column)), np.int64)
        self._rng = np.random.default_rng(seed)
        self.renamings: Counter[tuple[int, int]] = Counter()
        self.drawn = Reservoir(len(ids) * len(_SHOWN_KINDS), _EACH, 4)
        self.images = self.identical = 0
        self.failed = [0, 0]
        self.not_asked = [0, 0]  # boxes of each side whose names the other was not asked for in their images

    def add(self, pair: Pair) -> None:
        first, second = pair.detections
        if first is None or second is None:
            self.failed[0] += first is None
            self.failed[1] += second is None
            return
        kept = _asked_of(first, pair.asked[1]), _asked_of(second, pair.asked[0])
        self.not_asked[0] += len(first) - len(kept[0])
        self.not_asked[1] += len(second) - len(kept[1])
        first, second = kept
        differences = compare_boxes(first, second)
        self.images += 1
        self.identical += all(one.kind == "same" for one in differences)
        groups = set[int]()
        for one in differences:
            before = None if one.first is None else int(first.category_ids[one.first])
            after = None if one.second is None else int(second.category_ids[one.second])
            self._count(one.kind, before, after)
            if one.kind in _SHOWN_KINDS:
                shown = self._place[before if before is not None else after or 0]
                groups.add(shown * len(_SHOWN_KINDS) + _SHOWN_KINDS.index(one.kind))
        if groups:
            entry = [pair.places[0].unit, pair.places[0].row, pair.places[1].unit, pair.places[1].row]
            self.drawn.add(sorted(groups), self._rng.random(len(groups)), [entry] * len(groups))

    def _count(self, kind: str, before: int | None, after: int | None) -> None:
        if before is not None:
            self._counts[self._place[before], [self._column["first"], self._column[kind]]] += 1
        if after is not None:
            self._counts[self._place[after], self._column["second"]] += 1
            if kind in ("renamed", "added"):
                self._counts[self._place[after], self._column["renamed_to" if kind == "renamed" else "added"]] += 1
        if before is not None and after is not None and kind == "renamed":
            self.renamings[before, after] += 1

    def counts(self) -> dict[int, ChangeCounts]:
        return {id_: ChangeCounts(*self._counts[place].tolist()) for id_, place in self._place.items()}


def _tally(join: Join, ids: Sequence[int], seed: int, max_images: int) -> tuple[Comparison, _Shown]:
    tally = _Tally(ids, seed)
    for pair in join:
        tally.add(pair)
    facts = {
        "rows": join.rows,
        "alone": join.alone,
        "failed": tally.failed,
        "not_asked": tally.not_asked,
        "repeated": join.repeated,
        "without_digest": join.without_digest,
    }
    renamings = tuple((*pair, boxes) for pair, boxes in tally.renamings.most_common(_RENAMINGS))
    return Comparison(tally.images, tally.identical, tally.counts(), renamings, facts), _pick(
        tally.drawn, max_images, seed
    )


def _asked_of(detections: Detections, asked: Sequence[int] | None) -> Detections:
    """Return those that the other side was asked for: of others it says nothing."""
    return detections if asked is None else detections[np.isin(detections.category_ids, asked)]


def _pick(drawn: Reservoir, max_images: int, seed: int) -> _Shown:
    """Round-robin over the kinds of difference, and within a kind over the categories."""
    groups, entries = drawn.result()
    queues: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for group, entry in zip(groups.tolist(), entries.tolist(), strict=True):
        queues.setdefault((group % len(_SHOWN_KINDS), group // len(_SHOWN_KINDS)), []).append(tuple(entry))
    wanted = dict.fromkeys(in_turns(queues, seed=seed))
    return [(RowPlace(a, b), RowPlace(c, d)) for a, b, c, d in list(wanted)[:max_images]]


def _images(join: Join, selects: tuple[Select, Select], sample: _Shown, room_bytes: int) -> list[str]:
    """JSON of the sampled images, as many as fit."""
    sides = [_rows(join, which, sample) for which in (0, 1)]
    snapshot = join.sides[0].snapshot
    prefixes, reader = snapshot.prefixes, ImageReader(snapshot)
    pictures = thumbnails(reader, [row for row, _ in sides[0]], max_pixels=MAX_PIXELS)
    found: list[str] = []
    for (row, mine), (other, theirs), picture in zip(*sides, pictures, strict=False):
        asked = [side.asked(each.get("asked")) for side, each in zip(join.sides, (row, other), strict=True)]
        first, second = _asked_of(selects[0](mine), asked[1]), _asked_of(selects[1](theirs), asked[0])
        described = {
            "name": prefixes[row["shard_id"]] + row["image_key"],
            "key": f"{row['shard_id']}/{row['index']}",
            "width": row["width"],
            "height": row["height"],
            "differences": [_describe_difference(one, first, second) for one in compare_boxes(first, second)],
        }
        text = page.dump(described | picture)
        room_bytes -= len(text) + 1
        if room_bytes < 0:
            break
        found.append(text)
    return found


def _rows(join: Join, which: int, sample: _Shown) -> list[tuple[dict[str, Any], Detections]]:
    """Of one side, the row of each sampled image and its boxes."""
    wanted = [(join.units[which][places[which].unit], places[which].row) for places in sample]
    tables = read_rows(join.sides[which].snapshot.progress, wanted)
    return [
        (tables[place].drop_columns(["detections"]).to_pylist()[0], DetectionsColumn(tables[place]).detections)
        for place in wanted
    ]


def _describe_difference(one: Difference, first: Detections, second: Detections) -> dict[str, Any]:
    def box(side: Detections, place: int | None) -> list[float | None] | None:
        if place is None:
            return None
        corners = [round(float(value), 1) for value in side.boxes[place]]
        score = None if side.unscored[place] else shortest(side.scores[place])
        return [int(side.category_ids[place]), score, *corners]

    return {
        "kind": one.kind,
        "iou": round(one.iou, 3),
        "first": box(first, one.first),
        "second": box(second, one.second),
    }


def _describe(
    runs: tuple[Run, Run], thresholds: tuple[Thresholds, Thresholds], comparison: Comparison, vocabulary: Vocabulary
) -> dict[str, Any]:
    def plain(counts: ChangeCounts) -> dict[str, Any]:
        agreement = counts.agreement
        return {**vars(counts), "agreement": None if agreement is None else round(agreement, 6)}

    return {
        "schema_version": 1,
        "runs": [
            {
                "id": run.manifest.run_id,
                "uri": storage.redact(run.uri),
                "model": run.manifest.config["model"]["name"],
                "default_threshold": as_written(one.default),
                "own_thresholds": len(one.by_category),
            }
            for run, one in zip(runs, thresholds, strict=True)
        ],
        "rules": {"pair_iou": PAIR_IOU, "same_iou": SAME_IOU, "kinds": list(KINDS)},
        "images_compared": comparison.images,
        "identical": comparison.identical,
        "facts": comparison.facts,
        "total": plain(comparison.total),
        "categories": [
            {"id": id_, "name": (name := vocabulary.by_id[id_].name), "colour": colour_of(name), **plain(counts)}
            for id_, counts in comparison.categories.items()
        ],
        "renamings": [list(one) for one in comparison.renamings],
    }

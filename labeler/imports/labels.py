"""Labels of any format as ground truth with scores, and the entries that a file gives them in."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.truth.columns import Columns, is_number, short
from labeler.truth.ground_truth import GroundTruth, truth_of
from labeler.vocabulary import Category

NO_SCORE = float("nan")


@dataclass(frozen=True)
class Labels:
    """A file's labels of its images.

    Attributes:
        truth: images, categories and boxes; without crowds and boxes to ignore.
        categories: in the file's order; none if it has no categories and no boxes.
        scores: (boxes,) float64, NaN where the file gives none.
        segmentations: box -> its mask, as polygons or an RLE.
        digests: of each image, the digest of its bytes, where the file has it.
        relative: boxes are in parts of the upright image, not in pixels.
        stems: images are named without their extension.
        left_out: what a run cannot hold -> how many.
        digest: of the file's bytes, or of all files.
    """

    truth: GroundTruth
    categories: Sequence[Category]
    scores: npt.NDArray[np.float64]
    segmentations: Mapping[int, Any]
    digests: Sequence[str | None]
    digest: str
    relative: bool = False
    stems: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass
class ImportedLabels(Columns):
    """A collector of images, categories and boxes with scores, in COCO's terms, and of every problem found."""

    masks: bool = False
    scores: array[float] = field(default_factory=lambda: array("d"))
    given_masks: dict[int, Any] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)  # by image id
    left_out: Counter[str] = field(default_factory=Counter)

    def _add_image(self, entry: Mapping[str, Any], place: str) -> None:
        before = len(self.images)
        super()._add_image(entry, place)
        digest = entry.get("digest")
        if len(self.images) > before and isinstance(digest, str):
            self.digests[self.images[-1].id] = digest

    def _add_annotation(self, entry: Mapping[str, Any], place: str) -> None:
        before, score = len(self.image_ids), entry.get("score")
        if score is not None and not (is_number(score) and 0 <= score <= 1):
            self.problems.append(f"{place}: `score` must be a number from 0 to 1, got {short(score)}")
            return
        super()._add_annotation(entry, place)
        if len(self.image_ids) == before:
            return
        self.scores.append(NO_SCORE if score is None else score)
        if mask := entry.get("segmentation"):
            self.given_masks[before] = mask

    def labels(self, source: str, digest: str, **options: bool) -> Labels:
        """All of it. Raises Refused with everything that is wrong."""
        categories = tuple(self.categories)
        if not categories and not self.image_ids:  # nobody has drawn a box; a vocabulary may say what was looked for
            self.categories.append(Category(1, "object", ()))
        truth = truth_of(self, source)
        kept = ~truth.crowd & ~truth.ignore
        left_out = self.left_out + Counter(
            {
                "crowd regions": int(truth.crowd.sum()),
                "boxes with `ignore`": int((truth.ignore & ~truth.crowd).sum()),
            }
        )
        place = np.cumsum(kept) - 1
        return Labels(
            _without(truth, kept),
            categories,
            np.frombuffer(self.scores, np.float64)[kept],
            {int(place[row]): mask for row, mask in self.given_masks.items() if kept[row]},
            [self.digests.get(int(id_)) for id_ in truth.image_ids],
            digest,
            left_out={what: count for what, count in left_out.items() if count},
            **options,
        )


def _without(truth: GroundTruth, kept: npt.NDArray[np.bool_]) -> GroundTruth:
    """The same images and categories with some of the objects."""
    arrays = ("image", "category", "boxes_xywh", "areas", "crowd", "ignore")
    return replace(truth, federated=None, **{name: getattr(truth, name)[kept] for name in arrays})


def add_named(entries: ImportedLabels, names: Sequence[str], ids: Sequence[int] | None = None) -> None:
    """Add categories by name; ids count from 1 unless they are given."""
    numbers = range(1, len(names) + 1) if ids is None else ids
    entries.categories += [Category(id_, name, ()) for id_, name in zip(numbers, names, strict=True)]

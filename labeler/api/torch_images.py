"""Labeled images and their boxes as a torch Dataset, for a training loop of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from labeler import images
from labeler.errors import LabelerError, Refused, StorageError
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import LABELED
from labeler.review.image_bytes import ImageReader

if TYPE_CHECKING:
    from labeler.api.labeled_run import LabeledRun

_ADDRESS = ("shard_id", "index", "image_key", "uri", "offset", "length", "digest")
_ANY_SIZE = 1 << 62  # pixels: what has been labeled was within the run's own limit


class LabeledImages(Dataset[tuple[torch.Tensor, dict[str, torch.Tensor]]]):
    """A map-style torch Dataset: item i is the i-th image that was labeled, with its boxes.

    An item is `(image, target)`: the image as (3, height, width) uint8 RGB with EXIF orientation applied, and a dict.
    The dict has `boxes` (n, 4) float32, xyxy in pixels; `labels` (n,) int64, positions in `categories`; and `scores`
    (n,) float32. The score is NaN for a box without one, which passes every threshold.
    Images without a box at the threshold are items, too, with n = 0.

    The boxes and addresses of all images are held in memory, about 150 bytes an image and 28 a box; each image is read
    from the input when it is asked for. Images inside Parquet files cost one row group per image: export those first.
    May be used by the workers of a DataLoader.

    Attributes:
        categories: names, in the order that labels count in.
    """

    def __init__(self, run: LabeledRun, *, threshold: float = 0.3) -> None:
        """Read the run's boxes.

        Args:
            threshold: boxes with at least this score, 0 to 1.

        Raises:
            Refused: the threshold is not a score.
            StorageError: the run cannot be read.
        """
        if not 0 <= threshold <= 1:
            raise Refused(f"a threshold is a score from 0 to 1, got {threshold}")
        found = [category for category in run.vocabulary.categories if not category.negative]
        self.categories = [category.name for category in found]
        self._snapshot = run.snapshot
        self._reader: ImageReader | None = None
        label_of = {category.id: place for place, category in enumerate(found)}
        addresses, lengths, parts = [], [np.zeros(0, np.int64)], []
        for table in run.tables([*_ADDRESS, "status", "detections"]):
            labeled = table.filter(pc.is_in(table["status"], value_set=pa.array(LABELED, pa.string())))
            column = DetectionsColumn(labeled)
            kept = column.detections.scores >= np.float32(threshold)
            addresses.append(labeled.select(_ADDRESS))
            lengths.append(np.bincount(column.rows[kept], minlength=len(labeled)))
            parts.append(column.detections[kept])
        self._addresses = pa.concat_tables(addresses).combine_chunks() if addresses else None
        self._ends = np.cumsum(np.concatenate(lengths))
        self._boxes = np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in parts)])
        self._scores = np.concatenate(
            [np.zeros(0, np.float32), *(np.where(part.unscored, np.float32(np.nan), part.scores) for part in parts)]
        )
        ids = np.concatenate([np.zeros(0, np.int32), *(part.category_ids for part in parts)])
        self._labels = np.array([label_of[int(id_)] for id_ in ids], np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}  # its workers open storage themselves

    def __getitem__(self, place: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return image and target.

        Raises:
            IndexError: there is no such item.
            StorageError: the image is gone, or is no longer the one that was labeled.
        """
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        start, stop = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
        target = {
            "boxes": torch.from_numpy(self._boxes[start:stop].copy()),
            "labels": torch.from_numpy(self._labels[start:stop].copy()),
            "scores": torch.from_numpy(self._scores[start:stop].copy()),
        }
        return torch.from_numpy(self._pixels(place).copy()).permute(2, 0, 1), target

    def _pixels(self, place: int) -> Any:
        assert self._addresses is not None  # there is an item
        (row,) = self._addresses.slice(place, 1).to_pylist()
        self._reader = self._reader or ImageReader(self._snapshot)
        (data,) = self._reader.read([row])
        if isinstance(data, LabelerError):
            raise StorageError(f"image {row['image_key']} of {row['uri']}: {data}")
        return images.decode(data, max_pixels=_ANY_SIZE).pixels

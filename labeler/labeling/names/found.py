"""The categories that a run has found in each image, as a table that every worker can look into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeler.digests import digest_of
from labeler.labels.detections_column import DetectionsColumn
from labeler.labels.records import BOXES, LABELED
from labeler.shards import Item

COLUMNS = ("digest", "uri", "index", "status", BOXES)
_KEY_BYTES = 16
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FoundNames:
    """Plain arrays, which Ray maps into the processes of a node: about 48 bytes an image, and 4 for each of its names.

    Attributes:
        keys: (keys,) 16 bytes each, sorted: the digest of each image, and a hash of where it lies.
        image: (keys,) int64, the image of each key.
        starts: (images + 1,) int64, where the names of each image begin.
        category_ids: int32, of one image after the other, ascending.
        failed: images that the run has and could not label; they have no key.
    """

    keys: npt.NDArray[np.bytes_]
    image: Integers
    starts: Integers
    category_ids: npt.NDArray[np.int32]
    failed: int = 0

    @staticmethod
    def of(tables: Iterable[pa.Table], category_ids: Mapping[int, int], score: float) -> FoundNames:
        """Read a run.

        Args:
            tables: its rows, with COLUMNS.
            category_ids: of that run -> of the job; others are excluded.
            score: from which on a detection counts.
        """
        parts = [_UnitNames.of(table, category_ids, score) for table in tables]
        images = np.arange(sum(part.images for part in parts))
        # Digests first: of equal keys the first is taken.
        keys = [key for part in parts for key in part.digests] + [key for part in parts for key in part.homes]
        sorted_keys, first = np.unique(np.array(keys, f"S{_KEY_BYTES}"), return_index=True)
        counts = [0, *(count for part in parts for count in part.counts)]
        names = [part.category_ids for part in parts]
        return FoundNames(
            sorted_keys,
            np.concatenate([images, images])[first],
            np.cumsum(counts, dtype=np.int64),
            np.concatenate(names) if names else np.zeros(0, np.int32),
            sum(part.failed for part in parts),
        )

    def __len__(self) -> int:
        """Return images that names are known of, each as often as the run has it."""
        return len(self.starts) - 1

    def asked(self, item: Item) -> tuple[int, ...] | None:
        """As of `NamesPerImage`: by the digest of its bytes, else by its object and place in it."""
        place = None if item.data is None else self._place(bytes.fromhex(digest_of(item.data)))
        if place is None:
            place = self._place(home_of(item.uri, item.index))
        return None if place is None else self.of_image(place)

    def of_image(self, image: int) -> tuple[int, ...]:
        """Return the names of an image, by its place among those of the run."""
        return tuple(self.category_ids[self.starts[image] : self.starts[image + 1]].tolist())

    def _place(self, key: bytes) -> int | None:
        at = int(np.searchsorted(self.keys, np.bytes_(key)))
        found = at < len(self.keys) and self.keys[at] == key.rstrip(b"\0")  # numpy leaves zeros at the end out
        return int(self.image[at]) if found else None


def home_of(uri: str, index: int) -> bytes:
    """Return a key for where an image lies."""
    return bytes.fromhex(digest_of(f"{uri}\0{index}".encode("utf-8", "surrogateescape")))


@dataclass(frozen=True)
class _UnitNames:
    """The same of one unit: keys and counts of its labeled images, and their names."""

    digests: list[bytes]
    homes: list[bytes]
    counts: list[int]
    category_ids: npt.NDArray[np.int32]
    failed: int

    @property
    def images(self) -> int:
        return len(self.counts)

    @staticmethod
    def of(table: pa.Table, category_ids: Mapping[int, int], score: float) -> _UnitNames:
        column = DetectionsColumn(table)
        labeled = np.array([status in LABELED for status in table["status"].to_pylist()], np.bool_)
        rows = np.repeat(np.arange(len(labeled)), column.lengths)
        known = np.isin(column.category_ids, list(category_ids))
        kept = labeled[rows] & known & (column.detections.scores >= np.float32(score))
        ours = [category_ids[id_] for id_ in column.category_ids[kept].tolist()]
        pairs = np.unique(np.array([rows[kept].tolist(), ours], np.int64), axis=1)  # by row, then by id; each once
        places = np.flatnonzero(labeled).tolist()
        digests, uris, indices = (table[name].to_pylist() for name in ("digest", "uri", "index"))
        return _UnitNames(
            [bytes.fromhex(digests[place]) for place in places],
            [home_of(uris[place], indices[place]) for place in places],
            np.bincount(pairs[0], minlength=len(labeled))[labeled].tolist(),
            pairs[1].astype(np.int32),
            int(np.count_nonzero(~labeled)),
        )

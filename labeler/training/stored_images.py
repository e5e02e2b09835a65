"""Stored images with boxes as training examples, in endless batches of one shape."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from labeler import images, storage
from labeler.detectors.preprocess import Preprocessing
from labeler.digests import new_digest
from labeler.errors import Refused
from labeler.training.examples import Example, NoneReadable, to_cxcywh
from labeler.vocabulary import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Location:
    """The place of an encoded image: a whole object, or `length` bytes of one from `offset` on."""

    uri: str
    offset: int = 0
    length: int | None = None

    def read(self) -> bytes:
        return storage.read_bytes(self.uri, start=self.offset, length=self.length)


@dataclass(frozen=True, eq=False)
class Record:
    """One stored image with its ground truth.

    Attributes:
        width, height: of the upright image in pixels, as annotated.
        boxes_xyxy: (n, 4) float32 in its pixels.
        category_ids: (n,) int64.
        negatives: ids known to be absent; None when every category that has no box is.
    """

    name: str
    location: Location
    width: int
    height: int
    boxes_xyxy: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]
    negatives: tuple[int, ...] | None = None

    def only(self, category_ids: Collection[int]) -> Record:
        """Return the same image with the boxes of these categories."""
        kept = np.asarray([int(i) in category_ids for i in self.category_ids], bool)
        negatives = None if self.negatives is None else tuple(i for i in self.negatives if i in category_ids)
        boxes, ids = self.boxes_xyxy[kept], self.category_ids[kept]
        return replace(self, boxes_xyxy=boxes, category_ids=ids, negatives=negatives)

    def renumbered(self, new_ids: Mapping[int, int]) -> Record:
        """Return the same image with other ids; boxes of categories that have none are excluded."""
        part = self.only(new_ids)
        ids = np.asarray([new_ids[int(i)] for i in part.category_ids], np.int64)
        negatives = None if part.negatives is None else tuple(new_ids[i] for i in part.negatives)
        return replace(part, category_ids=ids, negatives=negatives)

    def read_pixels(self) -> npt.NDArray[np.uint8]:
        """Decode the upright image, (h, w, 3) uint8; a copy of another size is as good, as boxes can be scaled.

        Raises:
            ImageError: if it cannot be decoded, or its sides are not in the proportion of those annotated.
            Unreadable: if it is not there.
        """
        pixels = images.decode(self.location.read()).pixels
        height, width = pixels.shape[:2]
        if abs(width * self.height - height * self.width) > self.width + self.height:  # a pixel of rounding a side
            raise images.ImageError(f"is {width} x {height}, not {self.width} x {self.height}")
        return pixels


def digest_of(records: Iterable[Record], vocabulary: Vocabulary) -> str:
    """blake2b-128, hex, of what is trained: names, sizes and boxes, and the categories; not of the images' bytes."""
    found = new_digest()
    found.update(vocabulary.fingerprint.encode())
    for record in records:
        found.update(repr((record.name, record.width, record.height, record.negatives)).encode())
        found.update(record.boxes_xyxy.astype("<f4").tobytes() + record.category_ids.astype("<i8").tobytes())
    return found.hexdigest()


class StoredSource:
    """Every image once per epoch, in random order, each batch of images that are resized to one shape.

    An image that cannot be decoded is replaced by the next one of its shape, with a warning; a batch without any is
    `NoneReadable`. A shape with fewer images than a batch has repeats some.
    """

    def __init__(
        self, records: Sequence[Record], preprocessing: Preprocessing, *, seed: int, bucket_px: int = 1
    ) -> None:
        """
        Args:
            bucket_px: sides are rounded to multiples of it, which changes the aspect a little; 1 keeps the shapes
                that the detector itself will use.

        Raises:
            Refused: no records.
        """
        if not records:
            raise Refused("training data: no image to train on")
        self._records, self._preprocessing, self._seed = records, preprocessing, seed
        self.stored_images = len(records)
        self._unreadable: set[int] = set()
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, record in enumerate(records):
            shape = preprocessing.rule.target(record.height, record.width)
            shapes.setdefault(_rounded(shape, bucket_px), []).append(index)
        self._shapes = {shape: np.asarray(shapes[shape]) for shape in sorted(shapes)}
        self._epoch: tuple[int, int, list[tuple[tuple[int, int], npt.NDArray[np.int64]]]] = (-1, 0, [])

    def batch(self, step: int, size: int, part: slice) -> list[Example]:
        shape, indices = self._batch_indices(step, size)
        return [self._read(int(index), shape) for index in indices[part]]

    def _batch_indices(self, step: int, size: int) -> tuple[tuple[int, int], npt.NDArray[np.int64]]:
        per_epoch = sum(-(-len(found) // size) for found in self._shapes.values())
        epoch, place = divmod(step, per_epoch)
        if self._epoch[:2] != (epoch, size):
            self._epoch = (epoch, size, self._shuffled(epoch, size))
        return self._epoch[2][place]

    def _shuffled(self, epoch: int, size: int) -> list[tuple[tuple[int, int], npt.NDArray[np.int64]]]:
        rng = np.random.default_rng([self._seed, epoch])
        batches = []
        for shape, found in self._shapes.items():
            order = rng.permutation(found)
            whole = np.resize(order, -(-len(order) // size) * size)  # the last batch is filled up from the start
            batches += [(shape, whole[start : start + size]) for start in range(0, len(whole), size)]
        return [batches[place] for place in rng.permutation(len(batches))]

    def _read(self, index: int, shape: tuple[int, int]) -> Example:
        candidates = self._shapes[shape]
        start = int(np.searchsorted(candidates, index))
        unread: list[str] = []
        for turn in range(len(candidates)):
            number = int(candidates[(start + turn) % len(candidates)])
            record = self._records[number]
            if number not in self._unreadable:
                try:
                    return replace(self._example(record, shape), instead_of=tuple(unread))
                except (images.ImageError, storage.Unreadable) as error:
                    self._unreadable.add(number)
                    log.warning("%s is excluded from training: %s", record.name, error)
            unread.append(record.name)
        raise NoneReadable(unread)

    def _example(self, record: Record, shape: tuple[int, int]) -> Example:
        """Return (The decoder puts images upright, and boxes are in parts of the image, so a resized copy does no
        harm.)
        """
        pixels = record.read_pixels()
        if pixels.shape[:2] != shape:
            resample = Image.Resampling(self._preprocessing.rule.resample)
            pixels = np.asarray(Image.fromarray(pixels).resize(shape[::-1], resample))
        boxes = to_cxcywh(record.boxes_xyxy, record.height, record.width)
        return Example(pixels, boxes, record.category_ids, record.negatives)


def _rounded(shape: tuple[int, int], bucket_px: int) -> tuple[int, int]:
    height, width = (max(bucket_px, round(side / bucket_px) * bucket_px) for side in shape)
    return height, width

"""What a format is to the export: files of one part, single images put by threads, and files at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from labeler import storage
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage, Selection
from labeler.exports.splits import ALL
from labeler.exports.totals import ExportTotals
from labeler.runs import Run
from labeler.vocabulary import Category


@dataclass(frozen=True)
class Frame:
    """Facts about the run that each file of an export needs.

    Attributes:
        categories: those of the export, in the vocabulary's order, negatives excluded; positions are class indices.
        splits: names.
        target: where the export goes; formats that write single images put them there themselves.
        selection: what was asked for.
    """

    run: Run
    categories: tuple[Category, ...]
    splits: tuple[str, ...]
    target: str
    selection: Selection

    @property
    def has_masks(self) -> bool:
        """Return whether the run was labeled with masks."""
        return bool(self.run.manifest.fingerprint_fields.get("masks"))


@dataclass(frozen=True)
class PartSize:
    """The size of a part: this many images or, unless it is None, this many boxes; asked after each unit."""

    images: int
    boxes: int | None = None

    def is_reached(self, images: int, boxes: int) -> bool:
        return images >= self.images or (self.boxes is not None and boxes >= self.boxes)


class Part(ABC):
    """One part's files while they are written, on local disk; single images go straight to the target.

    Args:
        most_images, most_bytes: what makes it full; None for any number.
    """

    def __init__(
        self, frame: Frame, number: int, *, most_images: int | None = None, most_bytes: int | None = None
    ) -> None:
        self._frame, self._number = frame, number
        self._most_images, self._most_bytes = most_images, most_bytes
        self._images = self._bytes = 0
        self._class_of = {category.id: place for place, category in enumerate(frame.categories)}  # 0-based
        self._names = {category.id: category.name for category in frame.categories}
        self._uploads = Uploads(frame.target)

    @abstractmethod
    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        """Write one image and its labels; `pixels` if the format needs them."""

    @property
    def is_full(self) -> bool:
        """Asked after each unit."""
        by_images = self._most_images is not None and self._images >= self._most_images
        return by_images or (self._most_bytes is not None and self._bytes >= self._most_bytes)

    @abstractmethod
    def finish(self) -> Mapping[str, Path]:
        """Path in the export -> local file, of all that has to be uploaded."""


@dataclass(frozen=True)
class Format(ABC):
    """A format with its settings.

    Attributes:
        reserved: names that a column kept by the user must not have, because the format has its own under it.
        needs_masks: whether it writes them; if not, they are not read.
        has_ignored: whether it has a place for regions to ignore.
        later: settings that earlier versions did not have.
        most_boxes: of an image; one with more is written as crops (`crowded.py`). None for any number.
    """

    reserved = frozenset[str]()
    needs_masks = False
    later = frozenset[str]()

    @property
    def settings(self) -> dict[str, Any]:
        """Return what decides which files are written. What is `later` is excluded at its default: a started
        export continues.
        """
        defaults = {each.name: each.default for each in fields(self)}
        return {name: v for name, v in asdict(self).items() if name not in self.later or v != defaults[name]}

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def needs_pixels(self) -> bool: ...

    @property
    def has_ignored(self) -> bool:
        return False

    @property
    def most_boxes(self) -> int | None:
        return None

    def part_size(self, frame: Frame) -> PartSize | None:
        """Return what fills a part if its images and boxes alone decide that, so that parts can be written at once."""
        most: int | None = getattr(self, "images_per_part", None)
        by_bytes = hasattr(self, "bytes_per_part")
        return None if most is None or by_bytes or self.most_boxes is not None else PartSize(most)

    def describe_bad_names(self, categories: Sequence[Category]) -> str | None:
        """Return which names the format cannot hold, and why; None where it holds them all."""
        return None

    def describe_bad_image(self, image: ChosenImage) -> str | None:
        """Return why the format cannot hold this image of a sample; None if it can."""
        return None

    @abstractmethod
    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> Part: ...

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        """Small files that are written last: path -> content."""
        return {}


def part_name(split: str, number: int, extension: str, *, only: bool = False, whole: str = "labels") -> str:
    """`train-00003.json`; `train.json` where there is only one part, `labels-00003.json` without splits."""
    stem = whole if split == ALL else split
    return f"{stem}.{extension}" if only else f"{stem}-{number:05d}.{extension}"


THREADS = 16
_WAITING = 64


class Uploads:
    """Owns the threads that write below `target`; `finish` raises what any of them raised."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="put")
        self._waiting: deque[Future[None]] = deque()

    def put(self, relative: str, data: bytes) -> None:
        """Write one object, soon. Replacing is harmless: the same export gives the same bytes."""
        self._waiting.append(self._pool.submit(storage.put, storage.join(self._target, relative), data))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def put_image(self, image: ChosenImage, pixels: Pixels) -> str:
        """Write an image's copy below images/; returns its file name there, which is unlike that of any other row."""
        file_name = f"{image.file_id}.{pixels.extension}"
        self.put(f"images/{file_name}", pixels.data)
        return file_name

    def finish(self) -> None:
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

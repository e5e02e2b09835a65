"""Pascal VOC: an XML of boxes for each image, and the lists of images of each split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labeler.exports.formats import Format, Frame, Part
from labeler.exports.pixels import Pixels
from labeler.exports.selection import ChosenImage
from labeler.exports.splits import ALL
from labeler.exports.totals import ExportTotals
from labeler.exports.xml_text import content
from labeler.labels.boxes import clip_to_image
from labeler.labels.detections import Detections
from labeler.vocabulary import Category


@dataclass(frozen=True)
class VocFormat(Format):
    """JPEGImages/<shard>-<index>.<ext>, Annotations/ alike, ImageSets/Main/<split>.txt and labelmap.txt.

    Everything is one part: readers want one list for each split.
    """

    name = "voc"
    needs_pixels = True

    @property
    def has_ignored(self) -> bool:
        return True

    def describe_bad_names(self, categories: Sequence[Category]) -> str | None:
        """labelmap.txt has no quotes and no escapes for its separator and its comments."""
        bad = [category.name for category in categories if ":" in category.name or category.name.startswith("#")]
        if not bad:
            return None
        rest = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        reason = "cannot be in labelmap.txt, where ':' ends a name and '#' begins a comment"
        return f"the category {bad[0]!r}{rest} {reason}"

    def open_part(self, frame: Frame, number: int, start: ExportTotals, folder: Path) -> VocPart:
        return VocPart(frame, number, folder)

    def end_files(self, frame: Frame, totals: ExportTotals, parts: int) -> Mapping[str, bytes]:
        """labelmap.txt as CVAT and datumaro read it: a name a line, without a color, parts or actions."""
        names = "".join(f"{category.name}:::\n" for category in frame.categories)
        return {"labelmap.txt": f"# label:color_rgb:parts:actions\n{names}".encode()}


class VocPart(Part):
    """Images and their boxes go straight to the target; the lists are written to disk."""

    def __init__(self, frame: Frame, number: int, folder: Path) -> None:
        super().__init__(frame, number)
        self._paths = {split: folder / f"{split}.txt" for split in frame.splits}
        self._files = {split: path.open("w", encoding="utf-8") for split, path in self._paths.items()}

    def add(self, image: ChosenImage, pixels: Pixels | None) -> None:
        if pixels is None:
            raise ValueError("Pascal VOC needs the image")
        name = f"{image.stem}.{pixels.extension}"
        self._uploads.put(f"JPEGImages/{name}", pixels.data)
        self._uploads.put(f"Annotations/{image.stem}.xml", annotation(image, name, self._names).encode())
        self._files[image.split].write(f"{image.stem}\n")
        self._images += 1

    def finish(self) -> Mapping[str, Path]:
        self._uploads.finish()
        for file in self._files.values():
            file.close()
        names = {split: "trainval" if split == ALL else split for split in self._paths}
        return {f"ImageSets/Main/{names[split]}.txt": path for split, path in self._paths.items()}


def annotation(image: ChosenImage, file_name: str, names: Mapping[int, str]) -> str:
    """Return an image's XML."""
    row = image.row
    return (
        f"<annotation>\n  <folder>JPEGImages</folder>\n  <filename>{content(file_name)}</filename>\n"
        f"  <source><database>pseudo-labels by labeler</database></source>\n"
        f"  <size><width>{row['width']}</width><height>{row['height']}</height><depth>3</depth></size>\n"
        f"  <segmented>0</segmented>\n{''.join(_objects(image, names))}</annotation>\n"
    )


def _objects(image: ChosenImage, names: Mapping[int, str]) -> Iterable[str]:
    """Objects to find, and as difficult ones those to ignore."""
    yield from _at(image, image.detections, names, difficult=0)
    if image.ignored is not None:
        yield from _at(image, image.stored[image.ignored], names, difficult=1)


def _at(image: ChosenImage, found: Detections, names: Mapping[int, str], *, difficult: int) -> Iterable[str]:
    """Corners are whole pixels that count from 1, and the last one is inside: VOC's frame."""
    row = image.row
    size = np.array([row["width"], row["height"]])
    corners = np.round(clip_to_image(found.boxes, height=row["height"], width=row["width"])).astype(int)
    first = np.minimum(corners[:, :2] + 1, size)
    last = np.maximum(corners[:, 2:], first)
    sides = np.concatenate([first, last], 1).tolist()
    for category, (left, top, right, bottom) in zip(found.category_ids.tolist(), sides, strict=True):
        box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        yield (
            f"  <object><name>{content(names[category])}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>\n"
        )

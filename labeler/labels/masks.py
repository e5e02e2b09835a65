"""One object's mask as COCO's compressed RLE, at the size of the upright image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask


@dataclass(frozen=True, slots=True)
class Mask:
    """A compressed mask of one box.

    Attributes:
        height, width: of the upright image, in pixels.
        counts: run lengths down the columns, in COCO's compressed form.
        quality: the IoU with the object that the model expects of its mask; None where it says none.
    """

    height: int
    width: int
    counts: bytes
    quality: float | None = None

    @staticmethod
    def of_window(
        window: npt.NDArray[np.bool_], left: int, top: int, *, height: int, width: int, quality: float | None = None
    ) -> Mask:
        """Return the mask of an image that is empty outside a window. Takes time and memory for the window alone.

        Args:
            window: (columns, rows) bool, a column of pixels in a row of memory, as COCO counts them.
            left, top: where its first pixel is in the image.
        """
        counts = _run_lengths(window, left, top, height, width)
        rle = pycocotools.mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return Mask(height, width, rle["counts"], quality)

    @property
    def rle(self) -> dict[str, Any]:
        """As pycocotools takes it: {size: [height, width], counts: bytes}."""
        return {"size": [self.height, self.width], "counts": self.counts}

    @property
    def json_rle(self) -> dict[str, Any]:
        """As COCO's files have it: {size: [height, width], counts: str}."""
        return {"size": [self.height, self.width], "counts": self.counts.decode("ascii")}

    @property
    def area(self) -> int:
        """In pixels."""
        return int(pycocotools.mask.area(self.rle))

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Corners xyxy of the box around it, in pixels; None for a mask without a pixel."""
        x, y, width, height = (float(side) for side in pycocotools.mask.toBbox(self.rle))
        return (x, y, x + width, y + height) if width and height else None

    def decode(self) -> npt.NDArray[np.uint8]:
        """Return (height, width), 1 inside."""
        pixels: npt.NDArray[np.uint8] = pycocotools.mask.decode(self.rle)
        return pixels


def _run_lengths(window: npt.NDArray[np.bool_], left: int, top: int, height: int, width: int) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, beginning with 0, over the image's columns one after the other."""
    columns, rows = window.shape
    framed = np.zeros((columns, rows + 2), np.int8)
    framed[:, 1:-1] = window
    column, row = np.nonzero(np.diff(framed, axis=1))  # in each column, a run's first pixel and the one behind its last
    at = (left + column.astype(np.int64)) * height + top + row
    starts, ends = at[0::2], at[1::2]
    apart = starts[1:] != ends[:-1]  # a run to the bottom of the image continues at the top of the next column
    edges = np.stack([starts[np.append(True, apart)], ends[np.append(apart, True)]], 1).reshape(-1) if len(at) else at
    counts: list[int] = np.diff(edges, prepend=0, append=height * width).tolist()
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]

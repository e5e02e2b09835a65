"""Plain JPEGs decoded by simplejpeg, straight into rows of RGB: the pixels that Pillow gives, in less time.

Both are libjpeg-turbo. Pillow decodes into four bytes per pixel, which are then copied into three.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import __version__ as pillow_version
from PIL import features

from labeler.images import headers

_COLORS = ("Gray", "YCbCr")  # all others go through conversions that differ: inks, or RGB that is stored as such
_MOST_PIXELS = 1 << 29  # simplejpeg counts bytes in 32 bits
_LEAST_SIDE = 64  # of what is decoded smaller: from here on the scales between (3/8, 5/8) have sizes of their own


@dataclass(frozen=True)
class FastJpeg:
    """The decoder, where the optional package is installed. `choose_fast_jpeg` tries it first.

    Attributes:
        version: of simplejpeg.
        module: the package itself.
    """

    version: str
    module: Any

    @staticmethod
    def installed() -> FastJpeg | None:
        """None where the package is missing or cannot be loaded."""
        try:
            import simplejpeg

            return FastJpeg(metadata.version("simplejpeg"), simplejpeg)
        except Exception:  # a wheel for another machine raises nearly anything
            return None

    def __reduce__(self) -> Any:
        raise TypeError("a decoder stays in its process: each tries its own")

    def rows(self, data: bytes, stored: tuple[int, int], decoded: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
        """Decode a JPEG of eight-bit gray or YCbCr; None for all others, and at the least error or warning.

        Args:
            data: the file, without its metadata.
            stored: its (width, height), as Pillow reads it from the header.
            decoded: the (width, height) that is wanted: the same, or 1/2, 1/4 or 1/8 of it, rounded up.

        Returns:
            (height, width, 3) uint8 as stored, not turned; writable.
        """
        width, height = decoded
        if stored[0] * stored[1] > _MOST_PIXELS or (stored != decoded and min(stored) < _LEAST_SIDE):
            return None
        try:
            if not headers.is_plain_jpeg(data):
                return None
            said = self.module.decode_jpeg_header(data)
            if tuple(said[:2]) != stored[::-1] or said[2] not in _COLORS:
                return None
            pixels = np.empty((height, width, 3), np.uint8)
            found: npt.NDArray[np.uint8] = self.module.decode_jpeg(
                data, "RGB", fastdct=False, fastupsample=False, min_height=height, min_width=width, buffer=pixels
            )
            return found if found.shape == pixels.shape else None
        except Exception:  # Pillow says what is wrong, or decodes it all the same
            return None


def decoders_text(fast: FastJpeg | None) -> str:
    """Return what decodes JPEGs, with the versions of both libraries, for the metadata of a unit's file."""
    turbo = features.version_feature("libjpeg_turbo")
    pillow = f"pillow {pillow_version}" + (f" (libjpeg-turbo {turbo})" if turbo else "")
    return pillow if fast is None else f"simplejpeg {fast.version}, equal to {pillow}"

"""Encoded bytes to upright RGB pixels: size limits before decoding, every failure with a name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin as pillow_avif
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin
from PIL import Image as pillow
from PIL import ImageFile as pillow_file
from PIL import WebPImagePlugin as pillow_webp

from labeler.byte_budget import MAX_PIXELS
from labeler.errors import LabelerError
from labeler.images import headers, tiff_tags
from labeler.images.fast_jpeg import FastJpeg
from labeler.images.upright import WEBP_BYTES_PER_PIXEL, decoding_bytes, upright_rgb, upright_rows

_MAX_TIFF_NUMBERS = 1 << 19  # offsets and sizes of 260 thousand strips; 80 MB of the interpreter's memory
_TILE_PIXELS = 1 << 24  # a TIFF tile is decoded whole, so it may be as large as its image, or 4096 x 4096
_OPENERS: dict[str, Callable[[io.BytesIO], pillow_file.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # itself, not its factory: that would turn some JPEGs into MPO
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": pillow_webp.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}


class ImageError(LabelerError):
    """An image that cannot be had; `str(error)` is one stable line for the row, the same for the same bytes.

    Attributes:
        status: what the row gets, "decode_error" or "too_large".
        size: (width, height) as stored, where the header could be read; None otherwise.
    """

    def __init__(
        self,
        reason: str,
        status: Literal["decode_error", "too_large"] = "decode_error",
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.size = size

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (str(self), self.status, self.size)


@dataclass(frozen=True, eq=False)
class Image:
    """One decoded image.

    Attributes:
        pixels: (height, width, 3) uint8, RGB, upright: the EXIF orientation is already applied.
        orientation: that EXIF orientation, 1..8; 1 when there is none.
        full_size: (height, width) of the upright image where it was decoded smaller; None where the pixels are all.
        height, width: of the upright image, in its own pixels, however it was decoded.
    """

    pixels: npt.NDArray[np.uint8]
    orientation: int = 1
    full_size: tuple[int, int] | None = None

    @property
    def height(self) -> int:
        return self.full_size[0] if self.full_size else int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return self.full_size[1] if self.full_size else int(self.pixels.shape[1])


LeastShape = Callable[[int, int], tuple[int, int]]


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    least_shape: LeastShape | None = None,
    reserve: Callable[[int], None] | None = None,
    fast_jpeg: FastJpeg | None = None,
) -> Image:
    """The first frame of JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or AVIF bytes as upright RGB.

    - Strict: a truncated file is an error, not a half gray image. Damage that the format cannot notice (a flipped bit
      inside JPEG scan data) still decodes.
    - EXIF orientation is applied; a broken EXIF block counts as none. Other orientation hints (XMP) are not read.
    - Alpha is dropped, not composited, transparent palette entries likewise: that is what `convert("RGB")` and OpenCV
      do in the data loaders of those who will train on the labels, so they see what the detector saw.
    - 16 bits per sample become 8 by their high byte. 32-bit integers within 0..255 stay as they are; those within 16
      bits become 8 by their high byte; all others are stretched from their least to their greatest value. Floats
      within [0, 1] are multiplied by 255, others stretched; NaN is black.
    - CMYK as Pillow converts it (Adobe's inverted JPEGs included), without color management; profiles are ignored.

    Memory: bounded by the size limit. Measured beside the encoded bytes, per pixel: 7 bytes, 8 for PNG, 10 for
    progressive JPEG and AVIF, 13 for float TIFF, 16 for WebP. Metadata costs at most the file's own size again. Not
    bounded: time (a progressive JPEG may hold thousands of scans; plain PNM and run-length BMP are slow), and a crash
    inside a C decoder takes the process with it. libtiff writes its complaints to stderr on its own.

    Args:
        data: the encoded file.
        max_pixels: width x height beyond which nothing is decoded.
        least_shape: of the upright image's (height, width), the least (height, width) that will do. JPEGs are then
            decoded at 1/2, 1/4 or 1/8 of their size, from part of their frequencies, if that is at least as large;
            everything else in full. Where the size is not a multiple of 2, 4 or 8, so that the last column and row
            stand for only part of a pixel, what is scaled back from there is off by at most half a pixel of those
            decoded.
        reserve: called with the bytes that decoding will take, before it takes them; again with no more than that.
        fast_jpeg: decodes plain JPEGs in less time; Pillow decodes what it does not.

    Returns:
        pixels (height, width, 3) uint8, writable, with the orientation found.

    Raises:
        ImageError: with `status` and a stable one-line reason.
    """
    name = headers.sniff(data)
    if name is None:
        raise ImageError(headers.describe_unknown(data))
    reserve = reserve or (lambda size: None)
    if name == "WEBP" and (canvas := headers.webp_size(data)):  # whose decoder takes the canvas when it opens it
        _check_size(canvas, max_pixels)
        reserve(canvas[0] * canvas[1] * WEBP_BYTES_PER_PIXEL)
    with _named(name, "header"):
        source, exif, data = _open(data, name)
    _check_size(source.size, max_pixels)
    if isinstance(source, TiffImagePlugin.TiffImageFile):
        _check_tiles(source)
        orientation, turn = _tiff_orientation(source), 1  # Pillow turns TIFF itself while loading
    else:
        orientation = turn = tiff_tags.exif_orientation(exif)
    with _named(name, "data", source.size):
        stored = source.size
        drafted = _draft(source, turn, least_shape) if least_shape else None
        reserve(decoding_bytes(source))
        rows = fast_jpeg.rows(data, stored, source.size) if fast_jpeg and name == "JPEG" else None
        if rows is None:
            source.load()
        if drafted is None:
            return Image(upright_rgb(source, turn) if rows is None else upright_rows(rows, turn), orientation)
        width, height = drafted.filled
        if rows is None:
            pixels = upright_rgb(source.crop((0, 0, width, height)), turn)
        else:
            pixels = upright_rows(rows[:height, :width], turn)
        return Image(pixels, orientation, drafted.full_size)


def stored_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an encoded image as stored, by its header alone; None where that does not say it."""
    name = headers.sniff(data)
    if name is None:
        return None
    if name == "WEBP":  # whose decoder takes the memory of its canvas when it opens it
        canvas = headers.webp_size(data)
        return canvas[::-1] if canvas else None
    try:
        with _named(name, "header"):
            return _open(data, name)[0].size[::-1]
    except ImageError:
        return None


def phash(pixels: npt.NDArray[np.uint8]) -> int:
    """A 64-bit perceptual hash, signed, so that it fits an int64 column; near-duplicates differ in a few bits.

    Of the 8 x 8 lowest frequencies of the 32 x 32 gray image, 63 are compared with their median; the constant one says
    whether the image is brighter than mid-gray. After the DCT hash of C. Zauner, "Implementation and Benchmarking of
    Perceptual Image Hash Functions" (2010), section 3.2. Distance of two: `((a ^ b) & (2**64 - 1)).bit_count()`.

    Args:
        pixels: (height, width, 3) uint8 RGB.
    """
    rows = pixels[:: max(1, len(pixels) // 256)]  # still 8 rows or more for each of the 32: 12 MP in 4 ms, not 63
    small = pillow.fromarray(np.ascontiguousarray(rows)).resize((32, 32), pillow.Resampling.BOX).convert("L")
    low = (_DCT @ np.asarray(small, np.float64) @ _DCT.T).ravel()  # (64,)
    low = np.round(low, 3)  # a flat image has only rounding noise here, which differs between machines
    bits = low > np.median(low[1:])
    bits[0] = low[0] > 32 * 127.5
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def _dct(n: int, rows: int) -> npt.NDArray[np.float64]:
    """(rows, n): the first rows of the orthonormal DCT-II."""
    k, x = np.arange(rows)[:, None], np.arange(n)[None]
    matrix = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * x + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float64)


_DCT = _dct(32, 8)


def _open(data: bytes, name: str) -> tuple[pillow_file.ImageFile, bytes, bytes]:
    """(the file with its header read and no pixel decoded, its EXIF block, the bytes that are read).

    The plugin is called directly: `PIL.Image.open` would warn and raise by its own process-wide pixel limit.
    """
    exif: bytes | None = None
    if name == "JPEG":
        data, exif = headers.split_jpeg(data)
    elif name == "PNG":
        data, exif = headers.split_png(data)
    elif name == "GIF":
        data = headers.split_gif(data)
    elif name == "TIFF":
        _check_tags(data)
    elif name == "AVIF":
        if not pillow_avif.SUPPORTED:
            raise ImageError("AVIF files are not read by this build of Pillow")
        image = pillow_avif.AvifImageFile(io.BytesIO(data))
        return image, image.info.get("exif", b""), data
    source = _OPENERS[name](io.BytesIO(data))
    return source, source.info.get("exif", b"") if exif is None else exif, data


def _check_tags(data: bytes) -> None:
    claims = tiff_tags.tiff_claims(data)
    if claims.tag_bytes > len(data):
        raise ImageError("broken TIFF header: its tags claim more bytes than the file has")
    if claims.numbers > _MAX_TIFF_NUMBERS:
        raise ImageError(f"broken TIFF header: its tags hold more than {_MAX_TIFF_NUMBERS} numbers")


@contextmanager
def _named(name: str, part: Literal["header", "data"], size: tuple[int, int] | None = None) -> Iterator[None]:
    """Turn any error of a decoder into an ImageError of fixed wording, which no Pillow release changes."""
    try:
        yield
    except ImageError:
        raise
    except pillow.DecompressionBombError:  # some plugins check parts of an image by Pillow's own limit
        raise ImageError("too large: a part of it is beyond what Pillow takes", "too_large", size) from None
    except MemoryError as error:
        raise ImageError(f"broken {name} {part}: asks for more memory than there is", size=size) from error
    except Exception as error:  # Pillow's plugins raise nearly anything on bad bytes
        if isinstance(error, EOFError) or "truncat" in str(error).lower():
            raise ImageError(f"truncated {name}", size=size) from error
        raise ImageError(f"broken {name} {part}", size=size) from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        reason = f"too large: {width} x {height} is {width * height} pixels, the limit is {max_pixels}"
        raise ImageError(reason, "too_large", size)


def _check_tiles(source: TiffImagePlugin.TiffImageFile) -> None:
    """Half a megabyte of deflated zeros can be one tile of a gigabyte around an image of 64 x 64."""
    sides = [source.tag_v2.get(tag, 0) for tag in (322, 323)]  # TileWidth, TileLength
    whole = [side if isinstance(side, int) else 0 for side in sides]
    width, height = source.size
    if whole[0] * whole[1] > max(_TILE_PIXELS, width * height):
        reason = f"broken TIFF header: tiles of {whole[0]} x {whole[1]} for an image of {width} x {height}"
        raise ImageError(reason, size=source.size)


def _tiff_orientation(source: TiffImagePlugin.TiffImageFile) -> int:
    value = source.tag_v2.get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@dataclass(frozen=True)
class _Draft:
    """A JPEG to be decoded smaller: (width, height) of the pixels it fills, (height, width) of all of it, upright."""

    filled: tuple[int, int]
    full_size: tuple[int, int]


def _draft(source: pillow_file.ImageFile, orientation: int, least_shape: LeastShape) -> _Draft | None:
    """Have a JPEG decoded smaller where that will do; None where it will not."""
    if not isinstance(source, JpegImagePlugin.JpegImageFile):
        return None
    stored, sideways = source.size, orientation >= 5  # (width, height)
    full_size = stored if sideways else stored[::-1]
    least = least_shape(*full_size)
    drafted = source.draft(None, least if sideways else least[::-1])
    if drafted is None or source.size == stored:
        return None
    _, (_, _, right, bottom) = drafted  # a part of the last pixels may lie outside of the image
    return _Draft((int(right + 0.5), int(bottom + 0.5)), full_size)

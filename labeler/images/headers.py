"""What an image file says about itself, read from its bytes alone before a pixel is decoded."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator, Sequence

# What `sniff` can answer. Raster formats whose decoders work in this process alone: EPS would start Ghostscript, and
# the rest (PSD, ICNS, FITS, ...) is not worth its attack surface.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_PORTABLE_ANYMAP = re.compile(rb"P[1-6f][ \t\r\n]")
_NOT_READ = (
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"icns", "ICNS"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"BLP", "BLP"),
    (b"\x01\xda", "SGI"),
    (b"SIMPLE  =", "FITS"),
    (b"\x89HDF", "HDF5"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"PK\3\4", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"RIFF", "RIFF"),
)
_TEXT_STARTS = (
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<head", "HTML"),
    (b"<body", "HTML"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
_FRAMES = range(0xC0, 0xC3)  # SOF0 to SOF2, the Huffman-coded ones; source: ITU-T T.81, table B.1
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
# More pieces than an encoder would write: each costs an interpreter's step, and memory beyond its own bytes.
MAX_JPEG_SEGMENTS = 1 << 16  # 4 GB of full ones; a photograph with depth maps has some hundred
MAX_JPEG_SCANS = 500  # each goes over all pixels; cameras write 1, progressive encoders about 10
MAX_PNG_CHUNKS = 1 << 18  # a gigabyte in the smallest chunks that encoders write, 4 KB
MAX_GIF_BLOCKS = 1 << 18


def sniff(data: bytes) -> str | None:
    """The format by its magic number, one of `FORMATS`, or None. File names are never asked: they lie."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return "PPM" if _PORTABLE_ANYMAP.match(data) else None


def describe_unknown(data: bytes) -> str:
    """One line about bytes that `sniff` does not know: most are error pages, placeholders and zeroed blocks."""
    if not data:
        return "empty file"
    head = data[:1024]
    for magic, name in _NOT_READ:
        if data.startswith(magic):
            return f"{name} files are not read"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace").strip()
        return "HEIC files are not read" if brand in ("heic", "heix", "mif1", "msf1") else "video files are not read"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _TEXT_STARTS:
        if text.startswith(start):
            return f"not an image: looks like {name}"
    if b"<html" in text:
        return "not an image: looks like HTML"
    if not head.strip(b"\0"):
        return "not an image: starts with zero bytes only"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) and _is_utf8(head):
        return "not an image: looks like text"
    return "unknown image format"


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut in two
    except UnicodeDecodeError:
        return False
    return True


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the canvas, or None. The decoder reserves the canvas at once, so this is asked first.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        width, height = int.from_bytes(data[24:27], "little"), int.from_bytes(data[27:30], "little")
        return width + 1, height + 1
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment before the first scan, then (0, start, end) of all that follows.

    Whatever lies between segments is skipped; so is what follows where no segment begins any more.

    Raises:
        ValueError: more segments than any encoder writes.
    """
    at, steps = 2, 0
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                return
            continue
        steps += 1
        if steps > MAX_JPEG_SEGMENTS:
            raise ValueError("too many segments")
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # fill bytes and markers without a length
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDA, 0xD9) or end < at + 4 or end > len(data):  # the scan; or nothing that could be walked
            break
        yield marker, at, end
        at = end
    yield 0, at, len(data)


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """(the same JPEG without metadata, its EXIF block or b"").

    Only JFIF (APP0) and Adobe (APP14) say something about color; EXIF, ICC, XMP, thumbnails and comments only cost
    memory, and a few megabytes of them can be made to claim gigabytes. Whatever lies between segments is dropped too.

    Raises:
        ValueError: more segments or scans than any encoder writes.
    """
    kept, exif = [(0, 2)], b""
    for marker, at, end in jpeg_segments(data):
        if marker == 0 and data.count(b"\xff\xda", at) > MAX_JPEG_SCANS:  # inside a scan this pair cannot stand
            raise ValueError("too many scans")
        if not exif and is_exif_segment(data, marker, at):
            exif = data[at + 10 : end]
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            _keep(kept, at, end)
    return _joined(kept, data), exif


def is_plain_jpeg(data: bytes) -> bool:
    """Return whether it has 8-bit gray or three colors: of four inks every reader makes other colors."""
    frames = [
        (marker, data[start + 4 : start + 5], data[start + 9 : start + 10])  # and bits per sample, and channels
        for marker, start, _ in jpeg_segments(data)
        if marker in (*_FRAMES, *_OTHER_FRAMES)
    ]
    return len(frames) == 1 and all(
        marker in _FRAMES and bits == b"\x08" and channels in (b"\1", b"\3") for marker, bits, channels in frames
    )


def is_exif_segment(data: bytes, marker: int, start: int) -> bool:
    """Return whether a JPEG's segment is EXIF; its block begins 10 bytes after `start`."""
    return marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0"


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of each chunk to IEND, lengths and checksums included; b"" names an unwalkable rest.

    Raises:
        ValueError: more chunks than any encoder writes.
    """
    at, chunks = 8, 0
    while at + 12 <= len(data):
        chunks += 1
        if chunks > MAX_PNG_CHUNKS:
            raise ValueError("too many chunks")
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        name = data[at + 4 : at + 8]
        yield name, at, end
        at = end
        if name == b"IEND":
            return
    yield b"", at, len(data)


def split_png(data: bytes) -> tuple[bytes, bytes]:
    """(the same PNG with its critical chunks only, its EXIF block or b"").

    Text and profiles may unpack to a thousand times their size; animation frames are not wanted. Transparency goes
    too, since alpha is dropped. What follows a chunk that cannot be walked is kept for the decoder to complain about.

    Raises:
        ValueError: more chunks than any encoder writes.
    """
    kept, exif = [(0, 8)], b""
    for name, at, end in png_chunks(data):
        if name == b"eXIf" and not exif:
            exif = data[at + 8 : end - 4]
        if not name or name[:1].isupper():
            _keep(kept, at, end)
    return _joined(kept, data), exif


def split_gif(data: bytes) -> bytes:
    """The same GIF without comments and application blocks before its first image; each would cost 150 bytes.

    Graphic controls stay: where the first image does not fill the screen, they say what lies around it.
    Source: GIF89a specification, sections 17 to 26.

    Raises:
        ValueError: more blocks than any encoder writes.
    """
    if len(data) < 13:
        return data
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    kept, blocks = [(0, at)], 0
    while data[at : at + 1] == b"!":
        start, at = at, at + 2
        size = 1
        while size:
            size = data[at] if at < len(data) else 0
            at += 1 + size
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                raise ValueError("too many blocks")
        if data[start + 1 : start + 2] == b"\xf9":
            _keep(kept, start, at)
    _keep(kept, at, len(data))
    return _joined(kept, data)


def _keep(kept: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a part of a file to those that are kept; of a quarter million that touch each other one remains."""
    if kept[-1][1] == start:
        kept[-1] = (kept[-1][0], end)
    else:
        kept.append((start, end))


def _joined(kept: Sequence[tuple[int, int]], data: bytes) -> bytes:
    """The parts of a file that are kept, in their order. Copied once, and not at all where nothing is excluded."""
    if kept == [(0, len(data))]:
        return data
    whole = memoryview(data)
    return b"".join([whole[start:end] for start, end in kept])

"""What an image file says about itself, read from its bytes alone before a pixel is decoded."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

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
# More pieces than an encoder would write: each costs an interpreter's step, and memory beyond its own bytes.
MAX_JPEG_SEGMENTS = 1 << 16  # 4 GB of full ones; a picture with maps of depth has some hundred
MAX_JPEG_SCANS = 500  # each is a pass over all pixels; cameras write 1, progressive encoders about 10
MAX_PNG_CHUNKS = 1 << 18  # a gigabyte in the smallest chunks that encoders write, 4 KB
MAX_GIF_BLOCKS = 1 << 18
_MAX_TIFF_ENTRIES = 1 << 16  # of one directory; a BigTIFF may claim 2^64

_ORIENTATION = 0x0112
_SUB_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS and interoperability, followed by TIFF readers
_RAW_TIFF_TYPES = (1, 2, 7)  # bytes and text stay what they are; all others become numbers one by one
_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


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


def split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """(the same JPEG without metadata, its EXIF block or b"").

    Only JFIF (APP0) and Adobe (APP14) say something about colour; EXIF, ICC, XMP, thumbnails and comments only cost
    memory, and a few megabytes of them can be made to claim gigabytes. Whatever lies between segments is dropped too.

    Raises:
        ValueError: more segments or scans than any encoder writes.
    """
    kept, exif, at, steps = [data[:2]], b"", 2, 0
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                return b"".join(kept), exif
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
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0" and not exif:
            exif = data[at + 10 : end]
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            kept.append(data[at:end])
        at = end
    if data.count(b"\xff\xda", at) > MAX_JPEG_SCANS:  # inside a scan this pair of bytes cannot stand
        raise ValueError("too many scans")
    return b"".join([*kept, data[at:]]), exif


def split_png(data: bytes) -> tuple[bytes, bytes]:
    """(the same PNG with its critical chunks only, its EXIF block or b"").

    Text and profiles may unpack to a thousand times their size; animation frames are not wanted. Transparency goes
    too, since alpha is dropped. What follows a chunk that cannot be walked is kept for the decoder to complain about.

    Raises:
        ValueError: more chunks than any encoder writes.
    """
    kept, exif, at, chunks = [data[:8]], b"", 8, 0
    while at + 12 <= len(data):
        chunks += 1
        if chunks > MAX_PNG_CHUNKS:
            raise ValueError("too many chunks")
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        name = data[at + 4 : at + 8]
        if name == b"eXIf" and not exif:
            exif = data[at + 8 : end - 4]
        if name[:1].isupper():
            kept.append(data[at:end])
        at = end
        if name == b"IEND":
            return b"".join(kept), exif
    return b"".join([*kept, data[at:]]), exif


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
    kept, blocks = [data[:at]], 0
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
            kept.append(data[start:at])
    return b"".join([*kept, data[at:]])


def exif_orientation(exif: bytes) -> int:
    """The orientation 1..8 of an EXIF block; 1 when there is none or the block is broken (it must not lose an image).

    Only this one tag of the first directory is read, so no EXIF block costs more than its own bytes.
    Source: EXIF 2.32, tag 0x0112.
    """
    block = exif.removeprefix(b"Exif\0\0")
    try:
        order, big, start = _tiff_header(block)
        for tag, kind, count, where in _entries(block, order, big, start):
            if tag == _ORIENTATION and count == 1 and kind in (1, 3, 4):
                value = int(struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], block, where)[0])
                return value if 1 <= value <= 8 else 1
    except (struct.error, ValueError):
        pass
    return 1


@dataclass(frozen=True)
class TiffClaims:
    """What the tags of a TIFF's first image claim, directories of EXIF and GPS included.

    Attributes:
        tag_bytes: bytes of all values. In an honest file that is less than the file. Tags may overlap, so that a
            hostile one can claim its own size 65,535 times over; older Pillow versions would copy it as often.
        numbers: how many of the values become numbers of the interpreter, at up to 160 bytes each. Honest files have
            an offset and a size for each strip.
    """

    tag_bytes: int = 0
    numbers: int = 0


def tiff_claims(data: bytes) -> TiffClaims:
    """What the tags claim, as far as the directories can be walked; what ends early is the decoder's to judge."""
    tag_bytes = numbers = 0
    try:
        order, big, start = _tiff_header(data)
        pointer, starts = order + ("Q" if big else "I"), [start]
        for at in starts:  # grows while it is walked, by at most three directories
            for tag, kind, count, where in _entries(data, order, big, at):
                size = count * _TIFF_TYPE_BYTES.get(kind, 0)
                if size > (8 if big else 4):
                    (offset,) = struct.unpack_from(pointer, data, where)
                    size = min(size, max(0, len(data) - offset))
                    tag_bytes += size
                elif size and tag in _SUB_DIRECTORIES and len(starts) < 4:
                    starts.append(int(struct.unpack_from(order + ("Q" if size == 8 else "I"), data, where)[0]))
                if size and kind not in _RAW_TIFF_TYPES:
                    numbers += size // _TIFF_TYPE_BYTES[kind]
    except (struct.error, ValueError):
        pass
    return TiffClaims(tag_bytes, numbers)


def _tiff_header(block: bytes) -> tuple[str, bool, int]:
    """(byte order for struct, whether it is a BigTIFF, where the first directory starts)."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        raise ValueError("no TIFF header")
    big = struct.unpack_from(order + "H", block, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), block, 8 if big else 4)
    return order, big, int(start)


def _entries(block: bytes, order: str, big: bool, start: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, count, where its value or offset stands) of one TIFF directory."""
    if start > len(block):
        raise ValueError("directory outside the block")
    many, entry = (order + "Q", order + "HHQ") if big else (order + "H", order + "HHI")
    (entries,) = struct.unpack_from(many, block, start)
    at = start + struct.calcsize(many)
    for _ in range(min(entries, _MAX_TIFF_ENTRIES)):
        tag, kind, count = struct.unpack_from(entry, block, at)
        yield tag, kind, count, at + struct.calcsize(entry)
        at += 20 if big else 12

"""Which encoded images may be given away as they are: those that every common reader decodes as `images.decode` does.

"Reader" means Pillow's `Image.open(...).convert("RGB")`, with and without `ImageOps.exif_transpose`, and OpenCV's
`imread`. They differ from `images.decode`, from each other or between their versions where a file has 16-bit gray
samples, inks, packed colors, animation, or metadata that cannot be read or that only some of them read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from labeler.images import headers
from labeler.images.tiff_tags import orientation_is_plain

_APPLICATION_DATA = range(0xE1, 0xF0)
_TURNS_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)[2-8]')  # as Pillow looks for it
_EXIF_AS_TEXT = b"Raw profile type "  # ImageMagick's EXIF block in a PNG's text, which Pillow reads
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_UNPACKED = 1 << 20  # of text and profiles; beyond it Pillow refuses the file
_ANIMATED_WEBP = 0x02  # among the flags of VP8X; source: RFC 9649, section 2.7
_PLAIN_BMP_BITS = (1, 4, 8, 24, 32)


def same_for_every_reader(data: bytes, name: str) -> bytes | None:
    """Return the file, if need be without its metadata, or None if its pixels have to be written again.

    Args:
        data: a file that `images.decode` decodes without turning it.
        name: its format, as `headers.sniff` names it.
    """
    if name == "JPEG" and headers.is_plain_jpeg(data):
        return data if _jpeg_metadata_is_plain(data) else headers.split_jpeg(data)[0]
    if name == "PNG" and data[24:26] != b"\x10\0":  # 16-bit gray: Pillow's convert("RGB") clips it to white
        return data if _png_metadata_is_plain(data) else headers.split_png(data)[0]
    if (name == "WEBP" and _is_plain_webp(data)) or (name == "BMP" and _is_plain_bmp(data)):
        return data
    return None


def _jpeg_metadata_is_plain(data: bytes) -> bool:
    exif, ended = [], 2
    for marker, start, end in headers.jpeg_segments(data):
        if start != ended:  # fill bytes or junk, which some readers skip
            return False
        ended = end
        if headers.is_exif_segment(data, marker, start):
            exif.append(data[start + 10 : end])
        elif marker in _APPLICATION_DATA and _TURNS_IN_XMP.search(data, start, end):
            return False
    return len(exif) <= 1 and all(map(orientation_is_plain, exif))


def _png_metadata_is_plain(data: bytes) -> bool:
    exif = []
    for name, start, end in headers.png_chunks(data):
        if name[:1].isupper():
            continue
        body = data[start + 8 : end - 4]
        if not name or zlib.crc32(name + body) != int.from_bytes(data[end - 4 : end], "big") or name == b"acTL":
            return False
        if name == b"eXIf":
            exif.append(body)
        elif name in (*_TEXT_CHUNKS, b"iCCP") and not _text_is_plain(name, body):
            return False
    return len(exif) <= 1 and all(map(orientation_is_plain, exif))


def _text_is_plain(name: bytes, body: bytes) -> bool:
    """Return whether a chunk of text, or a profile, can be unpacked and says nothing about orientation."""
    _, _, rest = body.partition(b"\0")
    if name == b"iTXt" and rest[:1] == b"\1":
        rest = rest[2:].split(b"\0", 2)[-1]
    elif name in (b"zTXt", b"iCCP"):
        rest = rest[1:]
    else:
        return len(rest) <= _MAX_UNPACKED and not _says_orientation(body)
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(rest, _MAX_UNPACKED)
    except zlib.error:
        return False
    return unpacking.eof and not _says_orientation(body[:80] + unpacked)


def _says_orientation(text: bytes) -> bool:
    return text.startswith(_EXIF_AS_TEXT) or _TURNS_IN_XMP.search(text) is not None


def _is_plain_webp(data: bytes) -> bool:
    if data[12:16] != b"VP8X":
        return True
    if data[20] & _ANIMATED_WEBP:
        return False
    chunks = list(_webp_metadata(data))
    exif = [body for name, body in chunks if name == b"EXIF"]
    in_xmp = any(_TURNS_IN_XMP.search(body) for name, body in chunks if name == b"XMP ")
    return len(exif) <= 1 and all(map(orientation_is_plain, exif)) and not in_xmp


def _webp_metadata(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, body) of each EXIF and XMP chunk; source: RFC 9649, section 2.3."""
    at = 12
    while at + 8 <= len(data):
        name, end = data[at : at + 4], at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"EXIF", b"XMP "):
            yield name, data[at + 8 : end]
        at = end + (end - at) % 2


def _is_plain_bmp(data: bytes) -> bool:
    """Return whether it is uncompressed, with a byte per color: readers scale 5 bits to 8 in their own ways."""
    header, bits, compression = data[14:18], data[28:30], data[30:34]
    return (
        int.from_bytes(header, "little") >= 40
        and int.from_bytes(bits, "little") in _PLAIN_BMP_BITS
        and compression == bytes(4)
    )

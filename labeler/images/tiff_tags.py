"""Tags of TIFF files and of EXIF blocks, which are TIFF directories, read without a decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_TIFF_ENTRIES = 1 << 16  # of one directory; a BigTIFF may claim 2^64

_ORIENTATION = 0x0112
_SHORT = 3
_SUB_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS and interoperability, followed by TIFF readers
_RAW_TIFF_TYPES = (1, 2, 7)  # bytes and text stay what they are; all others become numbers one by one
_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


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


def orientation_is_plain(exif: bytes) -> bool:
    """Return whether every reader of this EXIF block finds the orientation that `exif_orientation` finds.

    Readers differ about broken blocks, about a tag that is there twice, and about one of another type or count.
    """
    block = exif.removeprefix(b"Exif\0\0")
    try:
        order, big, start = _tiff_header(block)
        found = [(kind, count) for tag, kind, count, _ in _entries(block, order, big, start) if tag == _ORIENTATION]
    except (struct.error, ValueError):
        return False
    return not big and found in ([], [(_SHORT, 1)])


@dataclass(frozen=True)
class TiffClaims:
    """Claims of the tags of a TIFF's first image, directories of EXIF and GPS included.

    Attributes:
        tag_bytes: bytes of all values. In an honest file that is less than the file. Tags may overlap, so that a
            hostile one can claim its own size 65,535 times over; older Pillow versions would copy it as often.
        numbers: how many of the values become numbers of the interpreter, at up to 160 bytes each. Honest files have
            an offset and a size for each strip.
    """

    tag_bytes: int = 0
    numbers: int = 0


def tiff_claims(data: bytes) -> TiffClaims:
    """Return what the tags claim, as far as the directories can be walked; what ends early is the
    decoder's to judge.
    """
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

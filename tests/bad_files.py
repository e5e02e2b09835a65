"""Bad image files in every format that Pillow knows: whole ones that are not read, and damaged ones of all."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image as pillow

DAMAGES = ("none", "cut", "cut header", "flip", "garble", "header", "zero", "repeat", "insert", "swap")

_NOISE = pillow.fromarray(
    np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
).resize((80, 64))  # fmt: skip
_MODES = ("RGB", "RGBA", "L", "1", "P", "F")
_OPTIONS: dict[str, dict[str, object]] = {"TIFF": {"compression": "tiff_lzw"}, "JPEG": {"progressive": True}}
_SIZES = {"ICNS": (32, 32)}
# What Pillow cannot write: a header that it would take for the format, to be followed by noise.
_HEADERS = {
    "BUFR": b"BUFR\0\0\0\4",
    "CUR": b"\0\0\2\0\1\0" + struct.pack("<BBBBHHII", 32, 32, 0, 0, 0, 0, 1000, 22),
    "DCX": struct.pack("<III", 0x3ADE68B1, 12, 0),
    "FITS": b"SIMPLE  =                    T" + b" " * 50 + b"NAXIS   =                    2" + b" " * 50,
    "FLI": struct.pack("<IHHHHHHH", 2000, 0xAF12, 5, 80, 64, 8, 0, 10),
    "FTEX": b"FTEX" + struct.pack("<iiiii", 1, 80, 64, 1, 1),
    "GBR": struct.pack(">IIIII", 28, 2, 80, 64, 3) + b"GIMP\0\0\0\5",
    "GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "IMT": b"*\nwidth 80\nheight 64\n\x0c\n",
    "IPTC": b"\x1c\x01\x5a\x00\x02\0\0",
    "MCIDAS": bytes(7) + b"\4" + struct.pack(">62I", *range(62)),
    "MPEG": b"\0\0\1\xb3\x05\0\x40",
    "PCD": bytes(2048) + b"PCD_" + bytes(1534) + b"\0",
    "PIXAR": b"\200\350\0\0" + bytes(412) + struct.pack("<HH", 64, 80) + bytes(4),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 80, 8, 3) + bytes(12),
    "SUN": struct.pack(">IIIIIIII", 0x59A66A95, 80, 64, 24, 80 * 64 * 3, 1, 0, 0),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 800, 640, 96) + bytes(10),
    "XPM": b'/* XPM */\nstatic char *x[] = {\n"80 64 2 1",\n"  c None",\n". c #FF0000",\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n80 64 255\n",
}


def formats() -> tuple[str, ...]:
    """Every format that this Pillow opens or writes."""
    pillow.init()
    return tuple(sorted({*pillow.OPEN, *pillow.SAVE}))


def whole_file(format: str) -> bytes:
    """A whole file where Pillow writes the format, else its header and noise."""
    return _written(format) or _HEADERS[format] + random.Random(format).randbytes(3000)


def bad_files(seed: int = 11) -> Iterator[tuple[str, bytes]]:
    """("FORMAT damage", bytes), the same for the same seed: every format in every kind of damage."""
    dice = random.Random(seed)
    whole = {format: whole_file(format) for format in formats()}
    for format, data in whole.items():
        for damage in DAMAGES:
            yield f"{format} {damage}", damaged(data, damage, whole[dice.choice(list(whole))], dice)


def _written(format: str) -> bytes | None:
    for mode in _MODES:
        buffer = io.BytesIO()
        try:
            picture = _NOISE.resize(_SIZES.get(format, _NOISE.size)).convert(mode)
            picture.save(buffer, format, **_OPTIONS.get(format, {}))
        except (OSError, KeyError, ValueError):  # the plugin does not write this mode, or writes at all only by others
            continue
        return buffer.getvalue()
    return None


def damaged(data: bytes, damage: str, other: bytes, dice: random.Random) -> bytes:
    broken = bytearray(data)
    at, length = dice.randrange(len(broken)), dice.randrange(1, 300)
    if damage == "cut":
        del broken[at:]
    elif damage == "cut header":
        del broken[dice.randrange(4, 60) :]
    elif damage == "flip":
        broken[at] ^= 1 << dice.randrange(8)
    elif damage == "garble":
        for _ in range(20):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
    elif damage == "header":
        for _ in range(4):
            broken[dice.randrange(min(64, len(broken)))] = dice.choice([0, 255, dice.randrange(256)])
    elif damage == "zero":
        broken[at : at + length] = bytes(length)
    elif damage == "repeat":
        broken[at:at] = broken[at : at + length]
    elif damage == "insert":
        broken[at:at] = dice.randbytes(length)
    elif damage == "swap":
        broken[dice.randrange(4, 40) :] = other
    return bytes(broken)

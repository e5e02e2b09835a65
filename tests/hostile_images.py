"""Images of a few megabytes at most that would cost gigabytes, or minutes, if they were believed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image as pillow

SIDE = 64  # pixels: what each of these images claims to be


def _deflated_zeros(size: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


def _tiff(tags: list[tuple[int, int, int, bytes]], data: bytes) -> bytes:
    """(tag, type, count, value) sorted, a value of more than 4 bytes behind the directory, `data` at the end."""
    tags = sorted(tags)
    start = 8 + 2 + 12 * len(tags) + 4
    behind = b""
    body = b""
    for tag, kind, count, value in tags:
        if value == b"@data":
            value = struct.pack("<I", start + sum(len(v) for *_, v in tags if len(v) > 5))
        if len(value) > 5:
            value, behind = struct.pack("<I", start + len(behind)), behind + value
        body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + behind + data


def _rgb(*more: tuple[int, int, int, bytes], compression: int = 1) -> list[tuple[int, int, int, bytes]]:
    side, depth = struct.pack("<I", SIDE), struct.pack("<HHH", 8, 8, 8)
    kind, colours, samples = (struct.pack("<H", value) for value in (compression, 2, 3))
    plain = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 3, depth), (259, 3, 1, kind)]
    return [*plain, (262, 3, 1, colours), (277, 3, 1, samples), *more]


def tiff_with_a_giant_tile() -> bytes:
    side, data = 6144, _deflated_zeros(3 * 6144 * 6144)
    edge = struct.pack("<I", side)
    tile = [(322, 4, 1, edge), (323, 4, 1, edge), (324, 4, 1, b"@data"), (325, 4, 1, struct.pack("<I", len(data)))]
    return _tiff(_rgb(*tile, compression=8), data)


def tiff_with_a_giant_strip() -> bytes:
    data = _deflated_zeros(100 << 20)
    strip = [(273, 4, 1, b"@data"), (278, 4, 1, struct.pack("<I", 1 << 30)), (279, 4, 1, struct.pack("<I", len(data)))]
    return _tiff(_rgb(*strip, compression=8), data)


def tiff_with_a_million_strips() -> bytes:
    many = 1 << 20
    return _tiff(_rgb((273, 4, many, struct.pack("<I", 8) * many), (278, 4, 1, struct.pack("<I", 1)),
                      (279, 4, many, struct.pack("<I", 1) * many)), b"")  # fmt: skip


def tiff_with_a_million_fractions() -> bytes:
    strip = [(273, 4, 1, b"@data"), (279, 4, 1, struct.pack("<I", 3 * SIDE * SIDE))]
    return _tiff(_rgb(*strip, (282, 5, 1 << 20, struct.pack("<II", 1, 3) * (1 << 20))), bytes(3 * SIDE * SIDE))


def jpeg_of_empty_segments() -> bytes:
    return b"\xff\xd8" + b"\xff\xe0\0\2" * (2 << 20) + b"\xff\xd9"


def jpeg_of_fill_bytes() -> bytes:
    return b"\xff\xd8" + b"\xff" * (8 << 20)


def jpeg_of_a_thousand_scans() -> bytes:
    buffer = io.BytesIO()
    pillow.new("RGB", (SIDE, SIDE)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 1000 + whole[-2:]


def png_of_empty_chunks() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") * (1 << 20)


def gif_of_comments() -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + b"\0\0\0"
    return screen + b"!\xfe\1x\0" * (1 << 20) + b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;"


def webp_whose_canvas_is_smaller_than_its_image() -> bytes:
    buffer = io.BytesIO()
    pillow.new("RGB", (12_000, 12_000)).save(buffer, "WEBP", lossless=True, method=0)
    image = buffer.getvalue()[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", SIDE - 1)[:3] * 2
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(image)) + b"WEBP" + canvas + image


def exif_larger_than_the_image() -> bytes:
    buffer = io.BytesIO()
    pillow.new("RGB", (SIDE, SIDE)).save(buffer, "JPEG")
    entries = struct.pack("<HHII", 0x9286, 7, 60_000, 8) * 5000
    block = (b"Exif\0\0II*\0" + struct.pack("<IH", 8, 5000) + entries)[:65_000]
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    return buffer.getvalue()[:2] + segment * 100 + buffer.getvalue()[2:]


HOSTILE: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "a giant tile": (tiff_with_a_giant_tile, "broken TIFF header: tiles of 6144 x 6144 for an image of 64 x 64"),
    "a giant strip": (tiff_with_a_giant_strip, None),  # only the image's own rows are unpacked
    "a million strips": (tiff_with_a_million_strips, "broken TIFF header: its tags hold more than 524288 numbers"),
    "a million fractions": (
        tiff_with_a_million_fractions,
        "broken TIFF header: its tags hold more than 524288 numbers",
    ),
    "empty segments": (jpeg_of_empty_segments, "broken JPEG header"),
    "fill bytes": (jpeg_of_fill_bytes, "broken JPEG header"),
    "a thousand scans": (jpeg_of_a_thousand_scans, "broken JPEG header"),
    "empty chunks": (png_of_empty_chunks, "broken PNG header"),
    "comments": (gif_of_comments, "broken GIF header"),
    "a small canvas": (webp_whose_canvas_is_smaller_than_its_image, "broken WEBP header"),
    "a large EXIF": (exif_larger_than_the_image, None),
}

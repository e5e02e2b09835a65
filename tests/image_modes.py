"""Encoded images of every mode and oddity that readers are known to differ about, by what an export makes of them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image as pillow

from tests.image_parts import encoded, exif, into_png, jpeg_segment, png_chunk, tiff_block

_RNG = np.random.default_rng(1)
WIDTH, HEIGHT = 52, 36
RGB = pillow.fromarray(_RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
RGBA = RGB.copy()
RGBA.putalpha(pillow.fromarray(_RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)))
PALETTE = RGB.quantize(16)
TURNED = RGB.rotate(180)
PNG, JPEG = encoded(RGB, "PNG"), encoded(RGB, "JPEG")
_XMP = b'<x tiff:Orientation="6"/>'
_EXIF_BLOCKS = {
    "empty": b"",
    "cut off": b"II*\0",
    "nonsense": b"nonsense" * 30,
    "orientation 0": tiff_block([(0x0112, 3, 1, 0)]),
    "orientation 9": tiff_block([(0x0112, 3, 1, 9)]),
    "text": tiff_block([(0x0112, 2, 1, 6)]),
    "two values": tiff_block([(0x0112, 3, 2, 6)]),
    "signed": tiff_block([(0x0112, 8, 1, 6)]),
    "fraction": tiff_block([(0x0112, 5, 1, 6)]),
    "twice": tiff_block([(0x0112, 3, 1, 1), (0x0112, 3, 1, 6)]),
    "cut off in the tag": tiff_block([(0x0112, 3, 1, 6)])[:14],
}


def _gray(kind: str, high: int) -> pillow.Image:
    return pillow.fromarray(_RNG.integers(0, high, (HEIGHT, WIDTH)).astype(kind))


def _png_of_16_bits(color: int, channels: int) -> bytes:
    samples = _RNG.integers(0, 65536, (HEIGHT, WIDTH * channels)).astype(">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def _bmp(bits: int, *, compression: int = 0, masks: tuple[int, ...] = (), data: bytes = b"") -> bytes:
    data = data or _RNG.integers(0, 256, HEIGHT * ((WIDTH * bits // 8 + 3) // 4 * 4)).astype(np.uint8).tobytes()
    colors = 1 << bits if bits <= 8 else 0
    palette = _RNG.integers(0, 256, 4 * colors).astype(np.uint8).tobytes()
    start = 54 + 4 * len(masks) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, compression, len(data), 0, 0, colors, 0)
    file = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return file + header + struct.pack(f"<{len(masks)}I", *masks) + palette + data


def _copied() -> dict[str, bytes]:
    """Files that leave as they are, to the byte."""
    return {
        **{f"png {mode}": encoded(RGBA.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
        **{f"png of {bits} bits": encoded(RGB.quantize(1 << bits), "PNG", bits=bits) for bits in (1, 2, 4)},
        **{f"png of 16 bits, color {kind}": _png_of_16_bits(kind, many) for kind, many in ((2, 3), (4, 2), (6, 4))},
        "png palette, transparent": encoded(PALETTE, "PNG", transparency=bytes([0, 128] * 8)),
        "png palette, one transparent": encoded(PALETTE, "PNG", transparency=3),
        "png gray, one transparent": encoded(RGB.convert("L"), "PNG", transparency=100),
        "png color, one transparent": encoded(RGB, "PNG", transparency=RGB.getpixel((0, 0))),
        "png gamma": into_png(png_chunk(b"gAMA", struct.pack(">I", 100_000)), PNG),
        "png profile": encoded(RGB, "PNG", icc_profile=b"icc" * 100),
        "png background": into_png(png_chunk(b"bKGD", struct.pack(">3H", 255, 0, 0)), encoded(RGBA, "PNG")),
        "png text": into_png(png_chunk(b"tEXt", b"Software\0x"), PNG),
        "png packed text": into_png(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b")), PNG),
        "png orientation 1": encoded(RGB, "PNG", exif=exif(1)),
        **{f"jpeg {mode}": encoded(RGB.convert(mode), "JPEG") for mode in ("L", "RGB")},
        "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
        "jpeg of RGB itself": encoded(RGB, "JPEG", keep_rgb=True),
        "jpeg 4:1:1": encoded(RGB, "JPEG", subsampling="4:1:1"),
        "jpeg profile": encoded(RGB, "JPEG", icc_profile=b"icc" * 40_000),
        "jpeg orientation 1": encoded(RGB, "JPEG", exif=exif(1)),
        "jpeg with more behind": JPEG + b"junk" * 100,
        "mpo": encoded(RGB, "MPO", save_all=True, append_images=[TURNED]),
        **{f"webp {mode}": encoded(image, "WEBP", lossless=True) for mode, image in (("RGB", RGB), ("RGBA", RGBA))},
        "webp RGBA, lossy": encoded(RGBA, "WEBP"),
        "webp profile": encoded(RGB, "WEBP", lossless=True, icc_profile=b"icc"),
        "webp orientation 1": encoded(RGB, "WEBP", lossless=True, exif=exif(1)),
        **{f"bmp {mode}": encoded(RGBA.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
        **{f"bmp of {bits} bits": _bmp(bits) for bits in (4, 32)},
        **{
            f"{format} exif {name}": encoded(RGB, format, exif=b"Exif\0\0" + _EXIF_BLOCKS[name])
            for name in ("orientation 0", "orientation 9")
            for format in ("JPEG", "PNG")
        },
    }  # fmt: skip


def _bared() -> dict[str, bytes]:
    """Files that leave without their metadata, their pixels as they were encoded."""
    bad_sum = png_chunk(b"tEXt", b"a\0b")[:-1] + b"!"
    large = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4 << 20)))
    first_is_no_frame = {"save_all": True, "append_images": [TURNED, RGB.rotate(90).resize(RGB.size)]}
    second = jpeg_segment(0xE1, b"Exif\0\0" + tiff_block([(0x0112, 3, 1, 6)]))
    one = encoded(RGB, "JPEG", exif=exif(1))
    return {
        "png text with a bad sum": into_png(bad_sum, PNG),
        "png text that cannot be unpacked": into_png(png_chunk(b"zTXt", b"a\0\0no zlib"), PNG),
        "png text too large": into_png(large, PNG),
        "png text too large behind": PNG[:-12] + large + PNG[-12:],
        "png turned in xmp": into_png(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP), PNG),
        "png exif as text": into_png(png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n0\n"), PNG),
        "apng": encoded(RGB, "PNG", save_all=True, append_images=[TURNED]),
        "apng whose image is not a frame": encoded(RGB, "PNG", default_image=True, **first_is_no_frame),
        "jpeg turned in xmp": JPEG[:2] + jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP) + JPEG[2:],
        "jpeg that starts twice": JPEG[:2] + JPEG,
        "jpeg with two exif blocks": one[:2] + jpeg_segment(0xE1, b"Exif\0\0" + tiff_block([])) + second + one[2:],
        **{
            f"{format} exif {name}": encoded(RGB, format, exif=b"Exif\0\0" + block)
            for name, block in _EXIF_BLOCKS.items()
            if not name.startswith(("orientation", "twice"))
            for format in ("JPEG", "PNG")
        },
        "JPEG exif twice": encoded(RGB, "JPEG", exif=b"Exif\0\0" + _EXIF_BLOCKS["twice"]),
    }


def _rewritten() -> dict[str, bytes]:
    """Files whose pixels are written again, as PNG."""
    inks = encoded(RGB.convert("CMYK"), "JPEG")
    adobe = inks.index(b"Adobe")
    animated = {"save_all": True, "append_images": [TURNED], "lossless": True}
    tiffs = {mode: RGBA.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")}
    tiffs |= {"PA": RGBA.convert("P").convert("PA"), "LAB": pillow.merge("LAB", RGB.split())}
    tiffs |= {"I": _gray("<i4", 256), "I;16": _gray("<u2", 65536), "I;16B": _gray(">u2", 65536)}
    tiffs |= {"I of 16 bits": _gray("<i4", 65536), "I of 31 bits": _gray("<i4", 1 << 31), "F": _gray("<f4", 2)}
    runs = b"".join(bytes([WIDTH, row]) + b"\0\0" for row in range(HEIGHT)) + b"\0\1"
    return {
        "png gray of 16 bits": _png_of_16_bits(0, 1),
        "png gray of 16 bits, dark": encoded(_gray("<u2", 256), "PNG"),
        "jpeg CMYK": inks,
        "jpeg CMYK, progressive": encoded(RGB.convert("CMYK"), "JPEG", progressive=True),
        "jpeg YCCK": inks[: adobe + 11] + b"\2" + inks[adobe + 12 :],
        "png turned": encoded(RGB, "PNG", exif=exif(6)),
        "webp turned": encoded(RGB, "WEBP", exif=exif(6), lossless=True),
        "webp animated": encoded(RGB, "WEBP", **animated),
        "webp animated, transparent": encoded(RGBA, "WEBP", **animated),
        **{f"webp exif {name}": encoded(RGB, "WEBP", lossless=True, exif=b"Exif\0\0" + _EXIF_BLOCKS[name])
           for name in ("nonsense", "text", "signed")},
        "bmp 5-5-5": _bmp(16),
        "bmp 5-6-5": _bmp(16, compression=3, masks=(0xF800, 0x7E0, 0x1F)),
        "bmp of runs": _bmp(8, compression=1, data=runs),
        **{f"tiff {mode}": encoded(image, "TIFF") for mode, image in tiffs.items()},
        "tiff turned": encoded(RGB, "TIFF", exif=exif(6)),
        "tiff lzw": encoded(RGB, "TIFF", compression="tiff_lzw"),
        "gif": encoded(RGB, "GIF"),
        "gif animated": encoded(RGB, "GIF", save_all=True, append_images=[TURNED]),
        "gif transparent": encoded(PALETTE, "GIF", transparency=2),
        **{f"pnm {mode}": encoded(RGB.convert(mode), "PPM") for mode in ("1", "L", "RGB")},
        "pnm of 16 bits": encoded(_gray("<u2", 65536), "PPM"),
        "pnm of floats": encoded(_gray("<f4", 2), "PPM"),
        "avif": encoded(RGB, "AVIF"),
        "avif turned": encoded(RGB, "AVIF", exif=exif(6)),
    }  # fmt: skip


COPIED, BARED, REWRITTEN = _copied(), _bared(), _rewritten()
TURNED_JPEGS = {
    f"jpeg {mode}, turned {turn}": encoded(RGB.convert(mode), "JPEG", exif=exif(turn))
    for mode in ("L", "RGB", "CMYK")
    for turn in (3, 6)
}

from __future__ import annotations

import io
import pickle
import random
import re
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as pillow
from PIL import ImageOps

from labeler import image_headers, images
from labeler.images import ImageError, decode

RNG = np.random.default_rng(0)
NOISE = pillow.fromarray(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((80, 60))
ORIENTATIONS = range(1, 9)


def encoded(image: pillow.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> pillow.Exif:
    block = pillow.Exif()
    block[0x0112] = orientation
    return block


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return f"{caught.value.status}: {caught.value}"


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def into_png(chunk: bytes, png: bytes) -> bytes:
    """Right after IHDR."""
    return png[:33] + chunk + png[33:]


def tiff_block(entries: list[tuple[int, int, int, int]], order: str = "<") -> bytes:
    body = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IH", 8, len(entries)) + body + b"\0\0\0\0"


# What is not an image


def test_empty_bytes_are_named():
    assert reason(b"") == "decode_error: empty file"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "not an image: looks like HTML"),
        (b"\xef\xbb\xbf\n\n  <HTML lang=en>", "not an image: looks like HTML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image: looks like SVG"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "not an image: looks like XML"),
        (b'{"error": "not found"}', "not an image: looks like JSON"),
        ("Nicht gefunden: größer\n".encode(), "not an image: looks like text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "not an image: looks like a Git LFS pointer"),
        (bytes(5000), "not an image: starts with zero bytes only"),
        (b"\x93NUMPY\x01\x00v\x00", "unknown image format"),
        (b"8BPS\0\1", "PSD files are not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript files are not read"),
        (b"%PDF-1.7\n", "PDF files are not read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC files are not read"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video files are not read"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 files are not read"),
        (b"PK\3\4" + bytes(40), "ZIP files are not read"),
    ],
)
def test_what_is_not_a_readable_image_is_said_in_a_line(data: bytes, said: str):
    assert reason(data) == f"decode_error: {said}"


def test_the_format_is_taken_from_the_bytes_alone():
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"):
        assert image_headers.sniff(encoded(NOISE, format)) == format
    assert image_headers.sniff(b"P6") is None


# Pixels


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_back_the_very_pixels(format: str):
    image = decode(encoded(NOISE, format, **({"lossless": True} if format == "WEBP" else {})))
    assert np.array_equal(image.pixels, np.asarray(NOISE))
    assert (image.width, image.height, image.orientation) == (80, 60, 1)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.writeable
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"keep_rgb": True}),
        ("RGB", {"subsampling": 0, "comment": b"hello", "icc_profile": b"icc" * 40_000, "dpi": (300, 300)}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_jpegs_equal_what_pillow_gives_although_their_metadata_is_left_out(mode: str, options: dict[str, object]):
    data = encoded(NOISE.convert(mode), "JPEG", **options)
    assert np.array_equal(decode(data).pixels, np.asarray(pillow.open(io.BytesIO(data)).convert("RGB")))


def test_an_image_taller_than_one_strip_is_put_together_right():
    big = pillow.fromarray(RNG.integers(0, 256, (700, 900, 3), dtype=np.uint8))
    for orientation in ORIENTATIONS:
        data = encoded(big, "PNG", exif=exif(orientation), compress_level=1)
        expected = ImageOps.exif_transpose(pillow.open(io.BytesIO(data)))
        assert np.array_equal(decode(data).pixels, np.asarray(expected))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "TIFF-lzw"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_exif_orientation_is_applied_once(format: str, orientation: int):
    name, _, compression = format.partition("-")
    options = {"compression": "tiff_lzw"} if compression else {}
    upright = np.zeros((40, 64, 3), np.uint8)  # dark, with a red corner at the upper left and a blue one at the right
    upright[:20, :32], upright[:20, 32:] = (220, 0, 0), (0, 0, 220)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]}
    turned = upright.swapaxes(0, 1)
    stored |= {5: turned, 6: turned[::-1], 7: turned[::-1, ::-1], 8: turned[:, ::-1]}
    pixels = np.ascontiguousarray(stored[orientation])
    image = decode(encoded(pillow.fromarray(pixels), name, exif=exif(orientation), **options))
    assert image.orientation == orientation
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).mean() < 12


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders(order: str):
    for value in ORIENTATIONS:
        entry = (0x0112, 3, 1, value if order == "<" else value << 16)
        assert image_headers.exif_orientation(b"Exif\0\0" + tiff_block([entry], order)) == value


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"nonsense" * 30,
        tiff_block([]),
        tiff_block([(0x0112, 3, 1, 0)]),
        tiff_block([(0x0112, 3, 1, 9)]),
        tiff_block([(0x0112, 2, 1, 6)]),
        tiff_block([(0x0112, 3, 1, 6)])[:14],
        b"II*\0\xff\xff\xff\xff\0\0",
    ],
)
def test_a_broken_exif_block_counts_as_none_and_loses_no_image(block: bytes):
    for format in ("JPEG", "PNG", "WEBP"):
        data = encoded(NOISE, format, exif=b"Exif\0\0" + block)
        image = decode(data)
        assert (image.orientation, image.pixels.shape) == (1, (60, 80, 3))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, -1)
    for format in ("PNG", "TIFF", "PPM"):
        grey = decode(encoded(pillow.fromarray(ramp), format)).pixels[0, :, 0]
        assert np.abs(grey.astype(int) - np.arange(256)).max() <= 1, format
    big_endian = pillow.fromarray(ramp.astype(">u2"))
    assert decode(encoded(big_endian, "TIFF")).pixels[0, -1].tolist() == [255, 255, 255]


def test_sixteen_bit_colour_png_keeps_its_high_bytes():
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0x0000, 0x12FF, 0x3400, 0x5678)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(row)), png_chunk(b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    assert decode(data).pixels.tolist() == [[[255, 128, 0], [0x12, 0x34, 0x56]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[-10.0, 0.0, 10.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, np.nan, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[0.0, np.inf, 1.0]], np.float32), [0, 255, 255]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
        (np.array([[7.0, 7.0]], np.float32), [0, 0]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 2**31 - 1]], np.int32), [0, 255]),
    ],
)
def test_32_bit_samples_are_brought_into_range(values: npt.NDArray[np.float32], expected: list[int]):
    pixels = decode(encoded(pillow.fromarray(values), "TIFF")).pixels
    assert pixels[0, :, 0].tolist() == expected
    assert pixels.shape == (*values.shape, 3)


def test_alpha_is_dropped_and_the_colour_below_it_kept():
    rgba = np.dstack([np.asarray(NOISE), np.zeros((60, 80), np.uint8)])
    rgba[:30, :, 3] = 255
    for format in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(pillow.fromarray(rgba), format)).pixels, np.asarray(NOISE))
    grey = pillow.fromarray(np.array([[[10, 0], [200, 255]]], np.uint8), "LA")
    assert decode(encoded(grey, "PNG")).pixels[0, :, 0].tolist() == [10, 200]


def test_a_palette_with_transparency_gives_its_colours(recwarn: pytest.WarningsRecorder):
    palette = pillow.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    for format, transparency in (("PNG", bytes([0, 128])), ("PNG", 1), ("GIF", 0)):
        data = encoded(palette, format, transparency=transparency)
        assert decode(data).pixels.tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert not recwarn.list


def test_one_bit_images_are_black_and_white():
    for format in ("PNG", "GIF", "BMP", "TIFF", "PPM"):
        pixels = decode(encoded(NOISE.convert("1"), format)).pixels
        assert set(np.unique(pixels)) == {0, 255}, format


def test_the_first_frame_of_an_animation_is_taken():
    other = pillow.new("RGB", NOISE.size, (9, 9, 9))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(NOISE, format, save_all=True, append_images=[other], **options)
        assert np.array_equal(decode(data).pixels, np.asarray(NOISE)), format
    data = encoded(other.quantize(2), "GIF", save_all=True, append_images=[NOISE.convert("P")])
    assert (decode(data).pixels == 9).all()


# Limits


def test_the_size_limit_is_exact_and_says_both_numbers():
    data = encoded(NOISE, "PNG")
    assert decode(data, max_pixels=80 * 60).width == 80
    said = "too_large: too large: 80 x 60 is 4800 pixels, the limit is 4799"
    assert reason(data, max_pixels=80 * 60 - 1) == said
    for format in ("JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"):
        assert reason(encoded(NOISE, format), max_pixels=80 * 60 - 1) == said, format


def bombs() -> dict[str, bytes]:
    """Headers that promise a thousand megapixels or more, in a few bytes."""
    jpeg = encoded(NOISE, "JPEG")
    at = jpeg.index(b"\xff\xc0")
    png_header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
    webp = encoded(NOISE, "WEBP", lossless=True, save_all=True, append_images=[NOISE.rotate(90)])
    tiff = [(256, 4, 1, 50_000), (257, 4, 1, 50_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tiff += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 50_000), (279, 4, 1, 2_500_000_000)]
    return {
        "JPEG": jpeg[: at + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[at + 9 :],
        "PNG": b"\x89PNG\r\n\x1a\n" + png_header + png_chunk(b"IDAT", zlib.compress(bytes(1000))),
        "GIF": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;",
        "GIF frame": b"GIF89a" + struct.pack("<HH", 1, 1) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2\x44\1\0;",
        "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "PPM": b"P6 60000 60000 255\n" + bytes(100),
        "WEBP": webp[:24] + b"\xff\xff\xff\xff\xff\x00" + webp[30:],
        "TIFF": tiff_block(tiff),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_pixel_bomb_is_refused_by_its_header(name: str):
    data = bombs()[name]
    decode(encoded(NOISE, name.split()[0]))  # whatever is imported or set up once
    tracemalloc.start()
    said = reason(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said.startswith("too_large: too large: ")
    assert peak < 4_000_000


def test_limits_work_without_touching_pillows_own(recwarn: pytest.WarningsRecorder):
    before = pillow.MAX_IMAGE_PIXELS
    wide = pillow.new("1", (30_000, 6_000))  # 180 million: beyond Pillow's own limit
    data = encoded(wide, "PNG")
    assert reason(data).startswith("too_large")
    assert decode(data, max_pixels=200_000_000).width == 30_000
    assert before == pillow.MAX_IMAGE_PIXELS
    assert not recwarn.list


def test_text_that_unpacks_to_megabytes_is_not_unpacked():
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000), 9))
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000), 9))
    data = into_png(bomb * 200 + profile, encoded(NOISE, "PNG"))
    tracemalloc.start()
    image = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(image.pixels, np.asarray(NOISE))
    assert peak < 3 * len(data) + 1_000_000


def test_metadata_larger_than_the_image_is_left_out():
    # 5,000 tags which all claim the same 60 KB: 300 MB, and through several segments gigabytes.
    entries = [(1000 + i, 7, 60_000, 8) for i in range(5000)]
    hostile = b"Exif\0\0" + tiff_block(entries)[:65_000]
    jpeg = encoded(NOISE, "JPEG", exif=exif(6))
    data = jpeg[:2] + jpeg_segment(0xE1, hostile) * 20 + jpeg[2:]
    tracemalloc.start()
    image = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.orientation == 1  # the first EXIF block counts
    assert peak < 3 * len(data) + 1_000_000


def test_tiff_tags_that_claim_more_than_the_file_are_refused():
    size = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    data = tiff_block(size + [(60_000 + i, 7, 50_000, 8) for i in range(100)]) + bytes(60_000)
    assert reason(data) == "decode_error: broken TIFF header: its tags claim more bytes than the file has"
    claims = image_headers.tiff_claims(encoded(NOISE, "TIFF", exif=exif(6), compression="tiff_lzw"))
    assert 0 < claims.numbers < 1000
    assert 0 < claims.tag_bytes < 1000
    assert image_headers.tiff_claims(b"MM\0+" + b"\xff" * 40) == image_headers.TiffClaims()


# Drafts: JPEGs decoded smaller


def smooth(width: int, height: int) -> pillow.Image:
    coarse = np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return pillow.fromarray(coarse).resize((width, height), pillow.Resampling.BICUBIC)


def at_least(height: int, width: int) -> images.LeastShape:
    return lambda _height, _width: (height, width)


def test_nothing_is_drafted_unless_it_is_asked_for():
    image = decode(encoded(smooth(400, 300), "JPEG"))
    assert image.full_size is None
    assert image.pixels.shape == (300, 400, 3)


@pytest.mark.parametrize(
    ("least", "decoded"),
    [
        ((300, 400), (300, 400)),
        ((151, 201), (300, 400)),
        ((150, 200), (150, 200)),
        ((75, 101), (150, 200)),  # both sides have to be large enough
        ((75, 100), (75, 100)),
        ((20, 20), (38, 50)),  # an eighth of 300 is 37.5
        ((1, 1), (38, 50)),  # never less than an eighth
        ((600, 800), (300, 400)),  # never larger
    ],
)
def test_a_jpeg_is_decoded_no_smaller_than_it_will_be_resized_to(least: tuple[int, int], decoded: tuple[int, int]):
    data = encoded(smooth(400, 300), "JPEG")
    image = decode(data, least_shape=at_least(*least))
    assert image.pixels.shape == (*decoded, 3)
    assert (image.height, image.width) == (300, 400)
    assert image.full_size == ((300, 400) if decoded != (300, 400) else None)


@pytest.mark.parametrize("progressive", [False, True])
def test_drafted_pixels_are_close_to_the_full_ones_made_smaller(progressive: bool):
    data = encoded(smooth(640, 480), "JPEG", quality=95, progressive=progressive)
    full, draft = decode(data), decode(data, least_shape=at_least(100, 100))
    smaller = pillow.fromarray(full.pixels).resize((160, 120), pillow.Resampling.BOX)
    assert np.abs(draft.pixels.astype(int) - np.asarray(smaller)).max() <= 8
    assert distance(images.phash(full.pixels), images.phash(draft.pixels)) <= 2


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_draft_is_turned_upright_and_knows_its_upright_size(orientation: int):
    asked = []

    def least_shape(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return height // 4, width // 4

    data = encoded(smooth(161, 96), "JPEG", quality=95, exif=exif(orientation))
    full, draft = decode(data), decode(data, least_shape=least_shape)
    assert asked == [(full.height, full.width)] == [full.pixels.shape[:2]]
    assert (draft.orientation, draft.height, draft.width) == (orientation, full.height, full.width)
    height, width, _ = draft.pixels.shape
    assert sorted((height, width)) == [24, 40]  # 161 / 4 is 40 and a quarter, which is left out
    smaller = pillow.fromarray(full.pixels).resize((width, height), pillow.Resampling.BOX)
    assert np.abs(draft.pixels.astype(int) - np.asarray(smaller)).mean() < 5  # of steep colours; turned wrongly, 50


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_only_jpegs_are_drafted(format: str):
    image = decode(encoded(NOISE, format), least_shape=at_least(5, 5))
    assert (image.full_size, image.pixels.shape) == (None, (60, 80, 3))


def test_the_size_limit_is_about_the_full_image_and_damage_stays_damage():
    data = encoded(smooth(400, 300), "JPEG")
    with pytest.raises(ImageError, match="too large: 400 x 300"):
        decode(data, max_pixels=100_000, least_shape=at_least(1, 1))
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode(data[:-200], least_shape=at_least(1, 1))


# Damage


def test_a_truncated_file_is_an_error_and_never_half_an_image():
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "AVIF"):
        data = encoded(NOISE, format)
        for part in (0.3, 0.6, 0.9):
            said = reason(data[: int(len(data) * part)])
            assert re.fullmatch(rf"decode_error: (truncated {format}|broken {format} (header|data))", said), said
    assert reason(encoded(NOISE, "JPEG")[:-300]) == "decode_error: truncated JPEG"
    assert reason(encoded(NOISE, "TIFF")[:5000]).startswith("decode_error: ")


def test_junk_between_jpeg_segments_is_skipped():
    data = encoded(NOISE, "JPEG", exif=exif(3))
    littered = data[:20] + b"\0\0\x12" + b"\xff" * 5 + data[20:]  # after JFIF
    assert np.array_equal(decode(littered).pixels, decode(data).pixels)
    assert decode(littered).orientation == 3


def test_a_damaged_side_chunk_does_not_lose_a_png():
    spoiled = png_chunk(b"tEXt", b"Comment\0hello")[:-1] + b"\0"  # wrong checksum
    assert np.array_equal(decode(into_png(spoiled, encoded(NOISE, "PNG"))).pixels, np.asarray(NOISE))


def good_files() -> list[tuple[str, bytes]]:
    grey16 = pillow.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13)
    made: list[tuple[str, pillow.Image, dict[str, object]]] = [
        ("JPEG", NOISE, {"exif": exif(6)}),
        ("JPEG", NOISE, {"progressive": True}),
        ("JPEG", NOISE.convert("CMYK"), {}),
        ("PNG", NOISE.convert("P"), {}),
        ("PNG", grey16, {}),
        ("PNG", NOISE, {"save_all": True, "append_images": [NOISE.rotate(90)]}),
        ("WEBP", NOISE.convert("RGBA"), {"exif": exif(5)}),
        ("WEBP", NOISE, {"lossless": True}),
        ("GIF", NOISE.convert("P"), {"save_all": True, "append_images": [NOISE.rotate(90).convert("P")]}),
        ("BMP", NOISE.convert("P"), {}),
        ("TIFF", NOISE, {"compression": "tiff_lzw", "exif": exif(8)}),
        ("TIFF", NOISE, {"compression": "jpeg"}),
        ("TIFF", NOISE.convert("1"), {"compression": "group4"}),
        ("TIFF", grey16, {}),
        ("PPM", NOISE, {}),
        ("AVIF", NOISE, {}),
    ]
    return [(format, encoded(image, format, **options)) for format, image, options in made]


def damaged(data: bytes, other: bytes, dice: random.Random) -> bytes:
    broken = bytearray(data)
    kind = dice.choice(["cut", "flip", "garble", "header", "zero", "repeat", "insert", "swap"])
    at, length = dice.randrange(len(broken)), dice.randrange(1, 300)
    if kind == "cut":
        del broken[at:]
    elif kind == "flip":
        broken[at] ^= 1 << dice.randrange(8)
    elif kind == "garble":
        for _ in range(20):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
    elif kind == "header":
        for _ in range(4):
            broken[dice.randrange(64)] = dice.choice([0, 255, dice.randrange(256)])
    elif kind == "zero":
        broken[at : at + length] = bytes(length)
    elif kind == "repeat":
        broken[at:at] = broken[at : at + length]
    elif kind == "insert":
        broken[at:at] = dice.randbytes(length)
    else:
        broken[dice.randrange(4, 40) :] = other
    return bytes(broken)


def outcome(data: bytes) -> tuple[str, str]:
    """("image", digest of its pixels) or (status, reason)."""
    try:
        image = decode(data, max_pixels=1_000_000)
    except ImageError as error:
        return error.status, str(error)
    assert (image.pixels.ndim, image.pixels.dtype) == (3, np.uint8)
    return "image", images.digest(image.pixels.tobytes())


@pytest.mark.filterwarnings("ignore")
def test_320_damaged_files_give_an_image_or_a_stable_reason_and_nothing_else():
    files, dice = good_files(), random.Random(7)
    broken = [damaged(data, dice.choice(files)[1], dice) for _ in range(20) for _, data in files]
    outcomes = [outcome(data) for data in broken]
    assert outcomes == [outcome(data) for data in broken]
    reasons = [text for status, text in outcomes if status != "image"]
    assert all(re.fullmatch(r"[\w ,:;/.-]+", text) and "0x" not in text for text in reasons), set(reasons)
    assert len(reasons) > 150  # the damage is real,
    assert len(set(reasons)) > 10  # and many kinds of it are told apart


def test_many_threads_decode_at_once():
    good = [decode(data).pixels for _, data in good_files()]
    jobs = [(i, data) for i, (_, data) in enumerate(good_files())] * 8

    def check(job: tuple[int, bytes]) -> bool:
        return np.array_equal(decode(job[1]).pixels, good[job[0]])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, jobs))


def test_an_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("too large: 3 x 3", "too_large", (3, 3))))
    assert (str(error), error.status, error.size) == ("too large: 3 x 3", "too_large", (3, 3))


# Digest and perceptual hash


def test_the_digest_is_32_hex_digits_of_the_bytes():
    assert images.digest(b"") == "cae66941d9efbd404e4d88758ea67670"
    assert images.digest(b"a") != images.digest(b"b")


def picture(seed: int) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(pillow.fromarray(coarse).resize((480, 360), pillow.Resampling.BICUBIC))


def distance(a: int, b: int) -> int:
    return ((a ^ b) & (2**64 - 1)).bit_count()


def test_the_perceptual_hash_is_near_for_copies_and_far_for_others():
    hashes = []
    for seed in range(12):
        pixels = picture(seed)
        own = images.phash(pixels)
        hashes.append(own)
        copy = pillow.fromarray(pixels)
        for data in (encoded(copy, "JPEG", quality=40), encoded(copy.resize((200, 150)), "WEBP", quality=60)):
            assert distance(own, images.phash(decode(data).pixels)) <= 6
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) >= 14


def test_the_perceptual_hash_fits_a_signed_column_and_is_stable():
    values = [images.phash(picture(seed)) for seed in range(20)]
    assert all(-(2**63) <= value < 2**63 for value in values)
    assert {value < 0 for value in values} == {True, False}
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (64, 256, 3))
    assert images.phash(np.ascontiguousarray(ramp)) == images.phash(ramp)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 5)])
def test_the_perceptual_hash_takes_any_size(shape: tuple[int, int]):
    assert images.phash(np.zeros((*shape, 3), np.uint8)) == 0
    assert images.phash(np.full((*shape, 3), 255, np.uint8)) == -(2**63)

"""What an image's first bytes say: no image at all, too large, or metadata that claims too much."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image as pillow

from labeler.images import decode, headers, tiff_tags
from tests.image_parts import NOISE, encoded, exif, into_png, jpeg_segment, png_chunk, reason, tiff_block


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
        assert headers.sniff(encoded(NOISE, format)) == format
    assert headers.sniff(b"P6") is None


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


def test_limits_work_without_touching_pillows_own(recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch):
    data = encoded(pillow.new("1", (300, 60)), "PNG")
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 8_900)  # it raises at twice as many, and warns before
    with pytest.raises(pillow.DecompressionBombError):
        pillow.open(io.BytesIO(data))
    assert reason(data, max_pixels=17_999).startswith("too_large")
    assert decode(data, max_pixels=18_000).width == 300
    assert pillow.MAX_IMAGE_PIXELS == 8_900
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
    claims = tiff_tags.tiff_claims(encoded(NOISE, "TIFF", exif=exif(6), compression="tiff_lzw"))
    assert 0 < claims.numbers < 1000
    assert 0 < claims.tag_bytes < 1000
    assert tiff_tags.tiff_claims(b"MM\0+" + b"\xff" * 40) == tiff_tags.TiffClaims()


@pytest.mark.parametrize(
    ("format", "split", "metadata"),
    [
        ("JPEG", lambda data: headers.split_jpeg(data)[0], {"comment": b"so it was"}),
        ("PNG", lambda data: headers.split_png(data)[0], {"dpi": (72, 72)}),
        ("GIF", headers.split_gif, {"comment": b"so it was"}),
    ],
)
def test_a_file_is_copied_once_without_its_metadata_and_never_where_it_has_none(format, split, metadata):
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    full = encoded(pillow.fromarray(noise), format, **metadata)
    tracemalloc.start()
    bare = split(full)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(bare) < len(full)
    assert most < 1.5 * len(bare), "one copy"
    assert split(bare) is bare

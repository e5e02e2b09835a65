from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as pillow
from PIL import ImageOps

from labeler import images
from labeler.digests import digest_of
from labeler.images import decode, tiff_tags
from tests.image_parts import NOISE, ORIENTATIONS, RNG, distance, encoded, exif, png_chunk, tiff_block


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
        assert tiff_tags.exif_orientation(b"Exif\0\0" + tiff_block([entry], order)) == value


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


def test_a_dark_picture_of_sixteen_bits_stays_dark():
    dark = pillow.fromarray(np.arange(256, dtype=np.uint16).reshape(1, -1))
    for format in ("PNG", "TIFF", "PPM"):
        assert not decode(encoded(dark, format)).pixels.any(), format


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
        (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
        (np.array([[0, 0, 1]], np.int32), [0, 0, 1]),
        (np.array([[0, 128, 256]], np.int32), [0, 0, 1]),
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


# Digest and perceptual hash


def test_the_digest_is_32_hex_digits_of_the_bytes():
    assert digest_of(b"") == "cae66941d9efbd404e4d88758ea67670"
    assert digest_of(b"a") != digest_of(b"b")


def picture(seed: int) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(pillow.fromarray(coarse).resize((480, 360), pillow.Resampling.BICUBIC))


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

"""Damaged files: an image or a reason, and nothing else."""

from __future__ import annotations

import pickle
import random
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as pillow

from labeler.digests import digest_of
from labeler.images import ImageError, decode
from tests.image_parts import NOISE, encoded, exif, into_png, png_chunk, reason


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
    return "image", digest_of(image.pixels.tobytes())


@pytest.mark.filterwarnings("ignore")
def test_320_damaged_files_give_an_image_or_a_stable_reason_and_nothing_else():
    files, dice = good_files(), random.Random(7)
    broken = [damaged(data, dice.choice(files)[1], dice) for _ in range(20) for _, data in files]
    outcomes = [outcome(data) for data in broken]
    assert outcomes == [outcome(data) for data in broken]
    reasons = [text for status, text in outcomes if status != "image"]
    assert all(re.fullmatch(r"[\w ,:;/.-]+", text) and "0x" not in text for text in reasons), set(reasons)
    assert len(reasons) > 150  # the damage is real,
    assert len(set(reasons)) > 10  # and many kinds of it are distinguished


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

"""JPEGs of every kind that the fast decoder takes, and of those that it leaves to Pillow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image as pillow

from labeler.images import FastJpeg, ImageError, LeastShape, decode, headers
from tests.bad_files import DAMAGES, damaged
from tests.image_parts import encoded, exif

SIZES = ((1, 1), (3, 2), (8, 8), (17, 16), (33, 47), (64, 65), (203, 157))
SUBSAMPLINGS = ("444", "422", "420", "440", "411")
Outcome = tuple[Any, ...]


class Counting:
    """The fast decoder, with a count of what it decodes itself."""

    def __init__(self) -> None:
        installed = FastJpeg.installed()
        assert installed is not None, "the development group has simplejpeg"
        self.fast, self.decoded = installed, 0

    def rows(self, *arguments: Any) -> Any:
        rows = self.fast.rows(*arguments)
        self.decoded += rows is not None
        return rows


def outcome(data: bytes, fast: Any = None, least_shape: LeastShape | None = None) -> Outcome:
    """Everything that `decode` says of a file."""
    try:
        image = decode(data, max_pixels=40_000_000, least_shape=least_shape, fast_jpeg=fast)
    except ImageError as error:
        return str(error), error.status, error.size
    return image.pixels.shape, image.orientation, image.full_size, image.pixels.tobytes()


def smooth(width: int, height: int) -> pillow.Image:
    coarse = np.random.default_rng((3, width, height)).integers(
        0, 256, (height // 9 + 1, width // 9 + 1, 3), dtype=np.uint8
    )
    return pillow.fromarray(coarse).resize((width, height), pillow.Resampling.BICUBIC)


def harsh(width: int, height: int) -> pillow.Image:
    bits = np.random.default_rng((4, width, height)).integers(0, 2, (height, width, 3), dtype=np.uint8)
    return pillow.fromarray(bits * np.uint8(255))


def subsampled(image: pillow.Image, subsampling: str, quality: int = 85) -> bytes:
    """As simplejpeg writes it: Pillow has no 4:4:0 and no 4:1:1."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(np.asarray(image)), quality, "RGB", subsampling)


@cache
def plain_jpegs() -> dict[str, bytes]:
    """What the fast decoder takes."""
    found = {}
    for width, height in SIZES:
        for picture in (smooth, harsh):
            image, name = picture(width, height), f"{picture.__name__} {width}x{height}"
            found |= {f"{name} {each}": subsampled(image, each) for each in SUBSAMPLINGS}
            found |= {f"{name} quality {each}": encoded(image, "JPEG", quality=each) for each in (2, 40, 97)}
            for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
                options = {"progressive": True, "subsampling": subsampling, "quality": 60}
                found[f"{name} progressive {subsampling}"] = encoded(image, "JPEG", **options)
            found[f"{name} gray"] = encoded(image.convert("L"), "JPEG")
            found[f"{name} gray, progressive"] = encoded(image.convert("L"), "JPEG", progressive=True)
            found[f"{name} restart, blocks"] = encoded(image, "JPEG", restart_marker_blocks=3)
            found[f"{name} restart, rows"] = encoded(image, "JPEG", restart_marker_rows=1, progressive=True)
            found[f"{name} coarse tables"] = with_tables(encoded(image, "JPEG", quality=95), 255)
    for turn in range(1, 9):
        found[f"turned {turn}"] = encoded(smooth(70, 90), "JPEG", exif=exif(turn))
        found[f"turned {turn}, large"] = encoded(smooth(900, 700), "JPEG", exif=exif(turn))
    one = encoded(smooth(50, 40), "JPEG")
    scan = one.index(b"\xff\xda")
    found["with more behind"] = one + b"junk" * 30
    found["with junk between segments"] = one[:scan] + b"\0\0\0" + one[scan:]
    return found


@cache
def other_jpegs() -> dict[str, bytes]:
    """What it leaves to Pillow, which decodes some of it."""
    image = smooth(80, 60)
    plain, inks = encoded(image, "JPEG"), encoded(image.convert("CMYK"), "JPEG")
    slow = encoded(image, "JPEG", progressive=True)
    adobe, frame = inks.index(b"Adobe"), plain.index(b"\xff\xc0")
    scan = plain.index(b"\xff\xda")
    return {
        "CMYK": inks,
        "CMYK, progressive": encoded(image.convert("CMYK"), "JPEG", progressive=True),
        "YCCK": inks[: adobe + 11] + b"\2" + inks[adobe + 12 :],
        "RGB itself": encoded(image, "JPEG", keep_rgb=True),
        "12 bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "arithmetic": plain[: frame + 1] + b"\xc9" + plain[frame + 2 :],
        "lossless": plain[: frame + 1] + b"\xc3" + plain[frame + 2 :],
        "two channels": plain[: frame + 9] + b"\2" + plain[frame + 10 :],
        "odd subsampling": plain[: frame + 11] + b"\x31" + plain[frame + 12 :],
        "no height": plain[: frame + 5] + b"\0\0" + plain[frame + 7 :],
        "another height": plain[: frame + 5] + b"\0\x50" + plain[frame + 7 :],
        "no end marker": plain[:-2],
        "no tables": plain[:2] + plain[frame:],
        "two frames": plain[:scan] + plain[frame : frame + 19] + plain[scan:],
        **{f"cut at {at}": plain[:at] for at in range(4, len(plain) - 2, 97)},
        **{f"cut at {at}, progressive": slow[:at] for at in range(300, len(slow) - 2, 97)},
    }


def damaged_jpegs(count: int, seed: int) -> Iterator[bytes]:
    """Small JPEGs in every kind of damage, the same for the same seed."""
    dice, whole = random.Random(seed), [data for data in plain_jpegs().values() if len(data) < 8000]
    for number in range(count):
        yield damaged(dice.choice(whole), DAMAGES[1 + number % (len(DAMAGES) - 1)], dice.choice(whole), dice)


def with_tables(data: bytes, value: int) -> bytes:
    """The same JPEG with one value in all of its quantization tables: sums go far out of a byte's range."""
    changed = bytearray(data)
    for marker, start, end in headers.jpeg_segments(data):
        if marker == 0xDB:
            changed[start + 5 : end] = bytes([value]) * (end - start - 5)
    return bytes(changed)

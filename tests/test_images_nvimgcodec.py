"""JPEGs decoded by nvImageCodec, on a CPU: the same code decodes on a GPU, where only the pixels are others."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow

from labeler.detectors import GroundingDino
from labeler.errors import Refused
from labeler.images import ImageError, decode
from labeler.labeling.unit import UnitLabeler
from labeler.shards import Item
from labeler.training.shapes import draw_scene
from tests.image_parts import ORIENTATIONS, encoded, exif

pytest.importorskip("nvidia.nvimgcodec")
from labeler.detectors.jpeg_decoder import NvImageCodec, resized

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec() -> NvImageCodec:
    return NvImageCodec(CPU)


def picture(width: int = 97, height: int = 61) -> pillow.Image:
    coarse = np.random.default_rng(7).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return pillow.fromarray(coarse).resize((width, height), pillow.Resampling.BICUBIC)


class Asked:
    """A decoder that counts how often it was asked, and how often it knew."""

    def __init__(self, codec: NvImageCodec) -> None:
        self.codec, self.asked, self.known = codec, 0, 0

    def __call__(self, data: bytes, sideways: bool) -> Any:
        self.asked += 1
        found = self.codec(data, sideways)
        self.known += found is not None
        return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"restart_marker_rows": 1}],
)
@pytest.mark.parametrize("size", [(97, 61), (64, 48), (1, 1), (1600, 3)])
def test_its_pixels_are_pillows(codec: NvImageCodec, mode: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    asked, data = Asked(codec), encoded(picture(*size).convert(mode), "JPEG", **options)
    expected, got = decode(data), decode(data, jpeg_decoder=asked)
    assert asked.known == 1
    assert np.array_equal(got.pixels, expected.pixels)
    assert got.full_size is None
    assert got.pixels.flags.writeable
    got.pixels[...] = 0


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_it_is_turned_upright(codec: NvImageCodec, orientation: int) -> None:
    asked, data = Asked(codec), encoded(picture(), "JPEG", exif=exif(orientation))
    expected, got = decode(data), decode(data, jpeg_decoder=asked)
    assert asked.known == 1
    assert np.array_equal(got.pixels, expected.pixels)
    assert got.orientation == expected.orientation == orientation


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_what_is_made_small_by_it_is_what_pillow_makes_small(orientation: int) -> None:
    """As on a GPU: what comes back is no larger than the detector's input, and knows the full image's size."""
    shapes: list[tuple[int, int]] = []

    def target(height: int, width: int) -> tuple[int, int]:
        shapes.append((height, width))
        return height // 3, width // 3

    data = encoded(picture(300, 180), "JPEG", exif=exif(orientation))
    upright = (300, 180) if orientation == 6 else (180, 300)
    got = decode(data, jpeg_decoder=NvImageCodec(CPU, target))
    assert shapes == [upright]
    assert (got.height, got.width) == got.full_size == upright
    assert got.pixels.shape == (upright[0] // 3, upright[1] // 3, 3)
    full = pillow.fromarray(decode(data).pixels)
    expected = np.asarray(full.resize((upright[1] // 3, upright[0] // 3), pillow.Resampling.BILINEAR))
    assert np.abs(got.pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(61, 97), (20, 30), (200, 300), (61, 10)])
def test_resizing_is_pillows_but_for_one_level(shape: tuple[int, int]) -> None:
    pixels = np.asarray(picture())
    expected = np.asarray(pillow.fromarray(pixels).resize(shape[::-1], pillow.Resampling.BILINEAR))
    assert np.abs(resized(torch.from_numpy(pixels.copy()), shape).numpy().astype(int) - expected).max() <= 1


def damaged() -> dict[str, bytes]:
    data = encoded(picture(640, 480), "JPEG")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    return {
        "cut off": data[: len(data) // 2],
        "cut off and ended": data[: len(data) // 2] + b"\xff\xd9",
        "no end": data[:-2],
        "something behind": data + b"junk",
        "padded": data + bytes(64),
        "two of them": data + data,
        "a flipped byte": bytes(flipped),
        "only a header": data[:300],
    }


def outcome(data: bytes, **options: Any) -> Any:
    try:
        return decode(data, **options).pixels.tobytes()
    except ImageError as error:
        return error.status, str(error), error.size


@pytest.mark.parametrize("name", damaged())
def test_damaged_files_end_as_they_do_with_pillow(codec: NvImageCodec, name: str) -> None:
    data = damaged()[name]
    assert outcome(data, jpeg_decoder=codec) == outcome(data)


def other_files() -> dict[str, bytes]:
    adobe = io.BytesIO()
    picture().save(adobe, "JPEG", keep_rgb=True)
    return {
        "CMYK": encoded(picture().convert("CMYK"), "JPEG"),
        "RGB without YCbCr": adobe.getvalue(),
        "PNG": encoded(picture(), "PNG"),
        "no image": b"\xff\xd8\xff" + bytes(100),
        "too large": encoded(picture(1000, 1000), "JPEG"),
    }


@pytest.mark.parametrize("name", other_files())
def test_it_is_asked_for_nothing_but_plain_jpegs_of_a_sound_header(codec: NvImageCodec, name: str) -> None:
    asked, data = Asked(codec), other_files()[name]
    assert outcome(data, max_pixels=999_999, jpeg_decoder=asked) == outcome(data, max_pixels=999_999)
    assert asked.asked == 0 or (name == "RGB without YCbCr" and asked.known)


def test_a_decoder_that_fails_leaves_the_file_to_pillow(codec: NvImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(), "JPEG")

    class Failing:
        def decode(self, *_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(codec, "_of_this_thread", lambda: (Failing(), None))
    assert outcome(data, jpeg_decoder=codec) == outcome(data)


def test_many_threads_have_a_decoder_each(codec: NvImageCodec) -> None:
    files = [encoded(picture(300 + number, 200), "JPEG") for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda data: decode(data, jpeg_decoder=codec).pixels, files * 8))
    for pixels, data in zip(found, files * 8, strict=True):
        assert np.array_equal(pixels, decode(data).pixels)


def test_rows_are_the_same_whoever_decodes(mm_folder: Any) -> None:
    items = [
        Item(f"{number}.jpg", number, f"in/{number}.jpg", 0, 0, encoded(scene, "JPEG"))
        for number, scene in enumerate(pillow.fromarray(draw_scene(1, index).image) for index in range(3))
    ]
    rows = []
    for name in ("pillow", "nvimgcodec"):
        detector = GroundingDino(mm_folder, ["cat", "house"], threads=1, device="cpu", jpeg_decoder=name)
        assert (detector.jpeg_decoder is None) == (name == "pillow")
        rows.append(UnitLabeler(detector, decode_threads=2).label("000000", items)[0])
    for ours, theirs in zip(*rows, strict=True):
        assert ours.status == theirs.status
        assert (ours.phash, ours.width, ours.height) == (theirs.phash, theirs.width, theirs.height)
        assert np.array_equal(ours.detections.boxes, theirs.detections.boxes)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    monkeypatch.setitem(sys.modules, "nvidia", None)
    with pytest.raises(Refused, match=r"jpeg_decoder=nvimgcodec needs the package nvidia-nvimgcodec-cu12 or -cu13"):
        NvImageCodec(CPU)


def test_an_unknown_decoder_is_refused(mm_folder: Any) -> None:
    with pytest.raises(Refused, match="jpeg_decoder is one of pillow, nvimgcodec; got turbo"):
        GroundingDino(mm_folder, ["cat"], device="cpu", jpeg_decoder="turbo")

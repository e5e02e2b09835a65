from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as pillow
from PIL import ImageOps

from labeler.exports.pixels import Pixels, upright
from labeler.images import Image, decode, headers
from tests.hostile_images import HOSTILE
from tests.image_modes import BARED, COPIED, REWRITTEN, TURNED_JPEGS


def pillow_sees(data: bytes) -> list[npt.NDArray[np.uint8]]:
    """What loaders that ignore EXIF see, and those that apply it."""
    return [
        np.asarray(read(pillow.open(io.BytesIO(data))).convert("RGB"))
        for read in (lambda x: x, ImageOps.exif_transpose)
    ]


def exported(data: bytes) -> tuple[Image, Pixels]:
    image = decode(data)
    return image, upright(data, image.orientation)


def check(data: bytes) -> Pixels:
    """Every reader sees the very pixels that the detector saw."""
    image, pixels = exported(data)
    for seen in pillow_sees(pixels.data):
        assert np.array_equal(seen, image.pixels)
    return pixels


@pytest.mark.parametrize("name", COPIED)
def test_a_file_that_every_reader_decodes_alike_leaves_as_it_is(name: str) -> None:
    assert check(COPIED[name]).data == COPIED[name]


@pytest.mark.parametrize("name", BARED)
def test_metadata_that_readers_differ_about_stays_behind(name: str) -> None:
    data = BARED[name]
    format = headers.sniff(data)
    split = headers.split_jpeg if format == "JPEG" else headers.split_png
    pixels = check(data)
    assert pixels.data == split(data)[0] != data
    assert pixels.extension == {"JPEG": "jpg", "PNG": "png"}[str(format)]


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_readers_decode_in_different_ways_is_written_as_the_detector_saw_it(name: str) -> None:
    pixels = check(REWRITTEN[name])
    assert (pixels.extension, headers.sniff(pixels.data)) == ("png", "PNG")


@pytest.mark.parametrize("name", TURNED_JPEGS)
def test_a_turned_jpeg_is_written_as_a_jpeg_and_about_what_the_detector_saw(name: str) -> None:
    image, pixels = exported(TURNED_JPEGS[name])
    assert pixels.extension == "jpg"
    for seen in pillow_sees(pixels.data):
        assert np.abs(seen.astype(int) - image.pixels).mean() < 3


def test_opencv_sees_the_same_pixels(tmp_path: object) -> None:
    cv2 = pytest.importorskip("cv2")
    for name, data in (COPIED | BARED | REWRITTEN).items():
        image, pixels = exported(data)
        seen = cv2.imdecode(np.frombuffer(pixels.data, np.uint8), cv2.IMREAD_COLOR)
        assert seen is not None, name
        assert np.array_equal(seen[..., ::-1], image.pixels), name


def test_what_is_hostile_and_decodes_all_the_same_opens_in_pillow_when_it_is_exported() -> None:
    for make, refused in HOSTILE.values():
        if refused is None:
            check(make())


def test_an_image_larger_than_the_usual_limit_is_exported_if_it_was_labeled(monkeypatch: pytest.MonkeyPatch) -> None:
    data = REWRITTEN["gif"]
    monkeypatch.setattr(decode, "__kwdefaults__", decode.__kwdefaults__ | {"max_pixels": 9})
    assert upright(data, 1).extension == "png"

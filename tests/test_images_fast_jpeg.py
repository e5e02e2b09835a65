"""The fast JPEG decoder against Pillow, to the bit: what it takes, what it leaves, and every failure of its own."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg

from labeler.images import FastJpeg, LeastShape, decode, decoders_text
from tests.bad_files import bad_files
from tests.image_parts import encoded, exif
from tests.jpegs import (
    SUBSAMPLINGS,
    Counting,
    damaged_jpegs,
    harsh,
    other_jpegs,
    outcome,
    plain_jpegs,
    smooth,
    subsampled,
)


def parts(factor: int) -> LeastShape:
    return lambda height, width: (max(1, height // factor), max(1, width // factor))


def broken(**calls: Any) -> FastJpeg:
    """simplejpeg with something else in the place of one of its functions."""
    functions = {name: getattr(simplejpeg, name) for name in ("decode_jpeg", "decode_jpeg_header")}
    return FastJpeg("0", SimpleNamespace(**functions | calls))


def test_plain_jpegs_are_decoded_to_pillows_pixels_and_by_it_alone() -> None:
    counting = Counting()
    for number, (name, data) in enumerate(plain_jpegs().items(), 1):
        assert outcome(data, counting) == outcome(data), name
        assert counting.decoded == number, f"{name} was left to Pillow"
    assert counting.decoded > 200


@pytest.mark.parametrize("name", other_jpegs())
def test_all_others_are_left_to_pillow(name: str) -> None:
    counting, data = Counting(), other_jpegs()[name]
    assert outcome(data, counting) == outcome(data)
    assert counting.decoded == 0


def test_some_of_the_others_are_decoded_by_pillow_and_some_are_errors() -> None:
    found = {name: outcome(data) for name, data in other_jpegs().items()}
    assert all(len(found[name]) == 4 for name in ("CMYK", "YCCK", "RGB itself"))
    assert found["12 bits"][:2] == ("broken JPEG header", "decode_error")
    assert found["cut at 683"][:2] == ("truncated JPEG", "decode_error")


@pytest.mark.filterwarnings("ignore")
def test_the_bad_files_come_out_the_same() -> None:
    counting, files = Counting(), list(bad_files())
    assert len(files) >= 400
    for name, data in files:
        assert outcome(data, counting) == outcome(data), name
    assert counting.decoded > 3


def test_damaged_jpegs_come_out_the_same() -> None:
    counting, errors = Counting(), 0
    for data in damaged_jpegs(1500, seed=5):
        found = outcome(data)
        assert outcome(data, counting) == found
        errors += len(found) == 3
    assert counting.decoded > 100
    assert errors > 100


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(203, 157), (64, 64), (640, 480)])
def test_drafts_are_equal_at_each_scale_turned_or_not(size: tuple[int, int], factor: int) -> None:
    counting = Counting()
    files = [subsampled(smooth(*size), each) for each in SUBSAMPLINGS]
    files += [encoded(harsh(*size), "JPEG", quality=95, progressive=True), encoded(smooth(*size).convert("L"), "JPEG")]
    files += [encoded(smooth(*size), "JPEG", exif=exif(turn)) for turn in range(1, 9)]
    for data in files:
        found = outcome(data, counting, parts(factor))
        assert found == outcome(data, None, parts(factor))
        assert found[2] is not None
    assert counting.decoded == len(files)


def test_drafts_of_tiny_images_are_left_to_pillow_whose_scales_have_sizes_of_their_own() -> None:
    counting = Counting()
    for side in range(1, 64):
        data = encoded(smooth(side, side + 5), "JPEG")
        for factor in (2, 4, 8):
            before, found = counting.decoded, outcome(data, counting, parts(factor))
            assert found == outcome(data, None, parts(factor))
            assert counting.decoded == before or found[2] is None


def test_pixels_can_be_written_to_and_lie_row_by_row() -> None:
    for options in ({}, {"least_shape": parts(2)}):
        for turn in (1, 6):
            data = encoded(smooth(203, 157), "JPEG", exif=exif(turn))
            pixels = decode(data, fast_jpeg=FastJpeg.installed(), **options).pixels
            assert pixels.flags.writeable
            assert pixels.flags.c_contiguous


def test_threads_do_not_disturb_each_other() -> None:
    counting = Counting()
    files = [subsampled(smooth(301, 203), each) for each in SUBSAMPLINGS] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: outcome(data, counting), files))
    assert found == [outcome(data) for data in files]


def raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    "fast",
    [
        broken(decode_jpeg=raising(ValueError("Corrupt JPEG data"))),
        broken(decode_jpeg=raising(MemoryError())),
        broken(decode_jpeg_header=raising(SystemError("no such call"))),
        broken(decode_jpeg_header=lambda data: (1, 1, "YCbCr", "444")),
        broken(decode_jpeg_header=lambda data: ()),
        broken(decode_jpeg=lambda *_, **__: np.zeros((1, 1, 3), np.uint8)),
        FastJpeg("0", None),
    ],
)
def test_whatever_it_raises_or_returns_pillow_decodes_the_image(fast: FastJpeg) -> None:
    data = encoded(smooth(70, 50), "JPEG")
    assert fast.rows(data, (70, 50), (70, 50)) is None
    assert outcome(data, fast) == outcome(data)


def test_an_image_beyond_what_it_counts_in_is_left_to_pillow() -> None:
    fast = FastJpeg.installed()
    assert fast is not None
    assert fast.rows(b"never looked at", (30_000, 30_000), (30_000, 30_000)) is None


def test_it_stays_in_its_process() -> None:
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(FastJpeg.installed())


def test_a_package_that_cannot_be_imported_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    assert FastJpeg.installed() is None


def test_the_versions_of_both_libraries_are_named() -> None:
    fast = FastJpeg.installed()
    assert fast is not None
    assert decoders_text(fast).startswith(f"simplejpeg {simplejpeg.__version__}, equal to pillow ")
    assert decoders_text(fast).endswith(decoders_text(None))
    assert "libjpeg-turbo" in decoders_text(None)

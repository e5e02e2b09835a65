"""A worker tries the fast JPEG decoder at its start, and keeps Pillow at the least difference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import simplejpeg

from labeler.images import FastJpeg, choose_fast_jpeg, jpeg_agreement
from labeler.images.jpeg_agreement import disagreement
from tests.log_lines import logged

LOG = "labeler.images.jpeg_agreement"


def other_build(**changed: Any) -> FastJpeg:
    names = ("decode_jpeg", "decode_jpeg_header", "encode_jpeg")
    return FastJpeg("9.9", SimpleNamespace(**{name: getattr(simplejpeg, name) for name in names} | changed))


def rounding_otherwise(data: bytes, *arguments: Any, **options: Any) -> Any:
    pixels = simplejpeg.decode_jpeg(data, *arguments, **options)
    pixels[-1, -1, -1] ^= 1
    return pixels


def upsampling_fast(data: bytes, *arguments: Any, **options: Any) -> Any:
    return simplejpeg.decode_jpeg(data, *arguments, **options | {"fastupsample": True})


def fast_transform(data: bytes, *arguments: Any, **options: Any) -> Any:
    return simplejpeg.decode_jpeg(data, *arguments, **options | {"fastdct": True})


def of_full_size(data: bytes, *arguments: Any, buffer: Any, **options: Any) -> Any:
    """One that cannot scale."""
    return simplejpeg.decode_jpeg(data, *arguments, **options | {"min_height": 0, "min_width": 0})


def failing(*_: Any, **__: Any) -> Any:
    raise ValueError("no memory")


def test_the_installed_one_agrees_and_is_chosen_without_a_line() -> None:
    with logged(LOG) as lines:
        fast = choose_fast_jpeg("auto")
    assert fast is not None
    assert fast.version == simplejpeg.__version__
    assert disagreement(fast) == ""
    assert lines == []


def test_more_than_a_dozen_pictures_are_tried_and_none_is_like_another() -> None:
    fast = choose_fast_jpeg("auto")
    assert fast is not None
    drawn = list(jpeg_agreement._drawn(fast))
    assert len({name for name, _, _ in drawn}) == len(drawn) > 12
    assert len({(data, factor) for _, data, factor in drawn}) == len(drawn)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (other_build(decode_jpeg=rounding_otherwise), "gives other pixels than Pillow for a JPEG of 4:4:4"),
        (other_build(decode_jpeg=upsampling_fast), "gives other pixels than Pillow for a JPEG of 4:2:2"),
        (other_build(decode_jpeg=fast_transform), "gives other pixels than Pillow for a JPEG of "),
        (other_build(decode_jpeg=of_full_size), "does not decode a JPEG of 1/2 of its size"),
        (other_build(decode_jpeg=failing), "does not decode a JPEG of 4:4:4"),
        (other_build(encode_jpeg=failing), "cannot be tried: ValueError: no memory"),
    ],
)
def test_any_difference_keeps_pillow_and_is_said_in_one_line(
    build: FastJpeg, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FastJpeg, "installed", staticmethod(lambda: build))
    with logged(LOG) as lines:
        assert choose_fast_jpeg("auto") is None
    (line,) = lines
    assert line.startswith(f"Pillow decodes all JPEGs: simplejpeg 9.9 {said}")
    assert "\n" not in line


def test_pillow_alone_and_no_package_are_chosen_without_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with logged(LOG) as lines:
        assert choose_fast_jpeg("pillow") is None
        monkeypatch.setattr(FastJpeg, "installed", staticmethod(lambda: None))
        assert choose_fast_jpeg("auto") is None
    assert lines == []

"""What hostile input costs at most, measured by the kernel in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labeler.images import ImageError, decode
from tests.hostile_images import HOSTILE, SIDE
from tests.inputs import image_bytes
from tests.peak_memory import MIB, measure

IMAGE_BOUND = 48 * MIB  # beside the encoded bytes, of which none here has more than 16 MiB


def decoding(folder: str) -> Callable[[], object]:
    for format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP"):
        decode(image_bytes(1, format=format))  # what is loaded or set up once
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return lambda: {name: _outcome(data) for name, data in sorted(files.items())}


def _outcome(data: bytes) -> list[object]:
    start = time.perf_counter()
    try:
        said = str(decode(data).pixels.shape)
    except ImageError as error:
        said = str(error)
    return [said, time.perf_counter() - start]


@pytest.mark.filterwarnings("ignore")
def test_hostile_images_cost_little_memory_and_little_time(tmp_path: Path) -> None:
    for name, (make, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(make())
    peak = measure("tests.test_hostile_memory:decoding", str(tmp_path))
    assert isinstance(peak.result, dict)
    for name, (_, reason) in HOSTILE.items():
        said, took_s = peak.result[name]
        assert said == (reason or str((SIDE, SIDE, 3))), name
        assert took_s < 5, name  # half a minute and more for some, were they believed
    assert peak.above < IMAGE_BOUND, f"{peak.above / MIB:.0f} MiB"

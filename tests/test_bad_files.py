"""Hundreds of bad files in every format that Pillow knows: each is one row with a stable reason, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as pillow

from labeler.images.headers import FORMATS
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import Row
from labeler.shards import Unit, find_shards, read_units
from tests.bad_files import DAMAGES, bad_files, formats, whole_file
from tests.inputs import tar_bytes
from tests.peak_memory import MIB, measure
from tests.stub_detector import StubDetector

READ = {*FORMATS, "MPO"}  # an MPO is a JPEG with further ones behind it
MAX_PIXELS = 1_000_000
BOUND = 64 * MIB  # above what Python, numpy and Pillow take before the first file


def write_tar(folder: Path) -> Path:
    names = {f"{number:04d}.jpg": data for number, (_, data) in enumerate(bad_files())}
    (folder / "bad.tar").write_bytes(tar_bytes(names))
    return folder / "bad.tar"


def rows_of(tar: str) -> list[Row]:
    (shard,) = find_shards(tar)
    labeler = UnitLabeler(StubDetector(), decode_threads=2, images_per_batch=2, max_pixels=MAX_PIXELS)
    units = [unit for unit in read_units(shard) if isinstance(unit, Unit)]
    return [row for unit in units for row in labeler.label("000000", unit.items)[0]]


def labeling(tar: str) -> Callable[[], object]:
    return lambda: [[row.image_key, row.status, row.error] for row in rows_of(tar)]


@pytest.mark.parametrize("format", formats())
def test_what_is_generated_is_what_pillow_takes_for_the_format(format: str) -> None:
    accepts = pillow.OPEN.get(format, (None, None))[1]
    assert accepts is None or accepts(whole_file(format)[:16]) is True


@pytest.mark.filterwarnings("ignore")
def test_every_bad_file_is_one_row_with_a_stable_reason_in_bounded_memory(tmp_path: Path) -> None:
    tar = write_tar(tmp_path)
    made = [name for name, _ in bad_files()]
    assert len(made) == len(formats()) * len(DAMAGES) >= 400
    rows = rows_of(str(tar))
    assert [row.image_key for row in rows] == [f"{number:04d}.jpg" for number in range(len(made))]
    bad = 0
    for name, row in zip(made, rows, strict=True):
        format, damage = name.split(" ", 1)
        if row.error is None:
            assert row.status in ("labeled", "empty"), name
            assert damage == "swap" or format in READ, f"{name} is not a format that is read"
            continue
        bad += 1
        assert row.status in ("decode_error", "too_large"), name
        assert re.fullmatch(r"[A-Za-z][\w ,:;/.%-]{5,150}", row.error), row.error
        assert "0x" not in row.error, "an address in memory is not stable"
        assert damage != "none" or format not in READ, f"{name}: {row.error}"
    reasons = Counter(row.error for row in rows if row.error)
    assert bad > 300
    assert len(reasons) > 20, "and they are distinguished"
    again = measure("tests.test_bad_files:labeling", str(tar))
    assert again.result == [[row.image_key, row.status, row.error] for row in rows], "the same in another process"
    assert again.above < BOUND, f"{again.above / MIB:.0f} MiB"

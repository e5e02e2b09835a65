"""What hostile input costs at most, measured by the kernel in processes of their own."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.errors import Refused
from labeler.images import ImageError, decode
from labeler.shards import Unit, find_shards, read_units
from labeler.vocabulary import Vocabulary
from tests.hostile_images import HOSTILE, SIDE
from tests.inputs import image_bytes, tar_bytes
from tests.peak_memory import MIB, measure
from tests.test_hostile_shards import header, member, pax

IMAGE_BOUND = 48 * MIB  # beside the encoded bytes, of which none here has more than 16 MiB


def decoding(folder: str) -> Callable[[], object]:
    for format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP"):
        decode(image_bytes(1, format=format))  # what is loaded or set up once
    files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return lambda: {name: _outcome(data) for name, data in sorted(files.items())}


def _outcome(data: bytes) -> list[object]:
    start = time.process_time()
    try:
        said = str(decode(data).pixels.shape)
    except ImageError as error:
        said = str(error)
    return [said, time.process_time() - start]


@pytest.mark.filterwarnings("ignore")
def test_hostile_images_cost_little_memory_and_little_time(tmp_path: Path) -> None:
    for name, (make, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(make())
    peak = measure("tests.test_hostile_memory:decoding", str(tmp_path))
    assert isinstance(peak.result, dict)
    for name, (_, reason) in HOSTILE.items():
        said, took_s = peak.result[name]
        assert said == (reason or str((SIDE, SIDE, 3))), name
        assert took_s < 15, name  # of this process's own; half a minute and more for some, were they believed
    assert peak.above < IMAGE_BOUND, f"{peak.above / MIB:.0f} MiB"


# ---- shards and vocabularies

SHARD_BOUND = 64 * MIB
CELL_MIB = 100


def reading(path: str) -> Callable[[], object]:
    honest = Path(path).with_stem("honest")
    list(read_units(find_shards(str(honest))[0]))  # what is loaded or set up once
    (shard,) = find_shards(path)

    def work() -> object:
        units = [unit for unit in read_units(shard, max_image_bytes=MIB) if isinstance(unit, Unit)]
        return sorted({re.sub(r"\d+", "N", str(item.error)) for unit in units for item in unit.items})

    return work


def check_shard(folder: Path, suffix: str, honest: bytes, hostile: bytes, bound: int) -> object:
    (folder / f"honest.{suffix}").write_bytes(honest)
    (folder / f"hostile.{suffix}").write_bytes(hostile)
    peak = measure("tests.test_hostile_memory:reading", str(folder / f"hostile.{suffix}"))
    assert peak.above < bound, f"{peak.above / MIB:.0f} MiB"
    return peak.result


def test_hostile_tars_cost_little_memory(tmp_path: Path) -> None:
    honest = tar_bytes({"0.png": image_bytes(1)})
    long_names = b"".join(pax(("path", f"{n}" + "x" * (4 << 20) + ".png")) + member("n") for n in range(40))
    assert check_shard(tmp_path, "tar", honest, long_names, SHARD_BOUND) == ["None"]
    claimed = member("0.png") + header("1.png", 100 << 30)
    assert check_shard(tmp_path, "tar", honest, claimed, SHARD_BOUND) == ["None", "truncated member"]


def test_a_huge_parquet_cell_costs_a_few_times_its_size_and_the_rest_of_the_file_nothing(tmp_path: Path) -> None:
    def file(cells: list[bytes]) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), buffer, use_dictionary=False)
        return buffer.getvalue()

    good = image_bytes(1)
    alone = check_shard(tmp_path, "parquet", file([good]), file([bytes(CELL_MIB * MIB)]), SHARD_BOUND)
    assert alone == ["row group of N bytes has more than N a row"]  # by the footer, unread
    among = file([good] * 200 + [bytes(CELL_MIB * MIB)])
    said = check_shard(tmp_path, "parquet", file([good]), among, SHARD_BOUND + 4 * CELL_MIB * MIB)
    assert said == ["None", "member of N bytes is larger than N"]


def loading(path: str) -> Callable[[], object]:
    Vocabulary.load(["cat"])

    def work() -> object:
        try:
            return len(Vocabulary.load(path))
        except Refused as error:
            return [str(error).rpartition(": ")[2], len(error.problems)]

    return work


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines", [b"a\n" * (2 << 20), b"".join(b"%x\n" % n for n in range(300_000))], ids=("the same name", "many names")
)
def test_a_file_that_is_no_vocabulary_is_given_up_early(lines: bytes, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes(lines)
    peak = measure("tests.test_hostile_memory:loading", str(tmp_path / "lines.txt"))
    assert peak.result == ["this is not a vocabulary", 0]
    assert peak.above < 128 * MIB, f"{peak.above / MIB:.0f} MiB"

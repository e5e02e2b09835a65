"""How many shards a wave takes: by the units that are left, as the end markers of other shards teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from labeler.pipeline.next_wave import SMALL_IMAGE_BYTES, UnitLimits, next_wave
from labeler.runs.plan import PlannedShard
from labeler.runs.progress import Progress
from labeler.shards import Shard

LIMITS = UnitLimits(images=256, bytes=64 << 20)
GIB = 1 << 30


def plan_of(count: int, *, size: int, images: int | None = None) -> list[PlannedShard]:
    return [PlannedShard(Shard(f"{i:06d}", f"s3://b/{i}.tar", size, "e", "webdataset"), images) for i in range(count)]


def progress_of(
    ends: Mapping[int, tuple[int, int]], units: Mapping[int, int], pending: Mapping[int, int] | None = None
) -> Progress:
    """Shards by number: (units, images) of an end, how many units are committed, how many are to be made again."""
    committed = {f"{shard:06d}": frozenset(range(count)) for shard, count in units.items()}
    marks = {f"{shard:06d}": end for shard, end in ends.items()}
    left = {f"{shard:06d}": frozenset(range(count)) for shard, count in (pending or {}).items()}
    return Progress(committed, marks, (("run", committed),), left)


def shards_in_wave(plan: list[PlannedShard], progress: Progress, wave_units: int) -> int:
    return len(next_wave(plan, progress, Counter(), 0, wave_units, LIMITS, careful=False).work)


def test_units_of_tars_are_learned_from_those_that_are_at_their_ends() -> None:
    plan = plan_of(1000, size=GIB)  # 8192 images of 128 KiB, 32 units
    guessed = GIB // (256 * SMALL_IMAGE_BYTES) + 1
    assert shards_in_wave(plan, progress_of({}, {}), 10 * guessed) == 10
    learned = progress_of({0: (32, 8192), 1: (32, 8192)}, {0: 32, 1: 32})
    assert shards_in_wave(plan, learned, 10 * 32) == 10
    assert shards_in_wave(plan, learned, 1_000_000) == 998, "one wave for all that is left"


def test_only_units_that_are_left_count() -> None:
    plan = plan_of(100, size=GIB)
    nearly = progress_of(dict.fromkeys(range(100), (32, 8192)), dict.fromkeys(range(100), 31))
    assert shards_in_wave(plan, nearly, 40) == 40
    ends, whole = dict.fromkeys(range(100), (32, 8192)), dict.fromkeys(range(100), 32)
    pending = progress_of(ends, whole, dict.fromkeys(range(9), 4))
    assert shards_in_wave(plan, pending, 12) == 3


def test_units_are_bounded_by_bytes_where_images_are_large_and_a_wave_has_a_shard() -> None:
    assert shards_in_wave(plan_of(100, size=GIB, images=160), progress_of({}, {}), 17 * 5) == 5
    assert shards_in_wave(plan_of(100, size=GIB), progress_of({}, {}), 1) == 1


def test_400_000_units_of_an_unread_input_are_one_wave_by_default() -> None:
    from labeler.config import RayConfig

    plan = plan_of(10_000, size=40 * 256 * 128 * 1024)  # of 40 units of 128 KiB images
    assert shards_in_wave(plan, progress_of({}, {}), RayConfig().wave_units) == 10_000

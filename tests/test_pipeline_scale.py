"""What a job with hundreds of thousands of units, or of names to forget, asks of its driver and of its read tasks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle

from labeler import storage
from labeler.pipeline.shared import Shared
from labeler.pipeline.source import ReadSettings, ShardWork, UnitSource
from labeler.runs.erasure.excluded import Excluded
from labeler.runs.plan import PlannedShard
from labeler.shards import Shard
from tests.inputs import write_tars
from tests.test_pipeline import config_of, run_quietly

pytestmark = pytest.mark.usefixtures("local_ray")


def works_of(folder: Path) -> list[ShardWork]:
    tars = sorted(folder.glob("*.tar"))
    shards = [Shard(f"{i:06d}", str(tar), tar.stat().st_size, None, "webdataset") for i, tar in enumerate(tars)]
    return [ShardWork(PlannedShard(shard, None)) for shard in shards]


def settings_with(folder: Path, excluded: Excluded) -> ReadSettings:
    return ReadSettings(str(folder), 4, 2**26, 2**28, (), None, Shared(excluded))


def test_a_list_of_names_to_forget_is_not_in_the_read_tasks_and_reaches_all_of_them(tmp_path: Path) -> None:
    works = works_of(write_tars(tmp_path / "in", shards=3, images=4))
    name = f"{Path(works[2].planned.shard.uri).name}/002_0001.png"
    source = UnitSource(works, settings_with(tmp_path, Excluded.of([name, *(f"x.tar/{i}.jpg" for i in range(20_000))])))
    assert max(len(cloudpickle.dumps(task)) for task in source.get_read_tasks(3)) < 4096
    dataset = ray.data.read_datasource(source, override_num_blocks=3)
    items = [item for row in dataset.iter_rows() for item in row["items"] or ()]
    removed = [(item["uri"], item["key"]) for item in items if item["removed"]]
    assert len(items) == 12
    assert removed == [(works[2].planned.shard.uri, "002_0001.png")]


def test_a_process_loads_a_shared_value_once_and_keeps_only_the_last() -> None:
    first, second = (Shared(Excluded.of([name])) for name in "ab")
    again = cloudpickle.loads(cloudpickle.dumps(first))
    assert first.load() is again.load()
    assert second.load() == Excluded.of(["b"])
    assert first.load() == Excluded.of(["a"])


def test_a_resumed_job_lists_what_is_committed_once_before_it_works(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=2, images=4), tmp_path / "out", checkpoint)
    assert run_quietly(config).report.complete
    (tmp_path / "out/shards/000001-1-4").unlink()
    listed, real = list[str](), storage.list_split

    def count(uri_prefix: str, beginnings: Sequence[str]) -> Iterator[storage.ObjectInfo]:
        listed.append(storage.basename(uri_prefix))
        return real(uri_prefix, beginnings)

    monkeypatch.setattr(storage, "list_split", count)
    assert run_quietly(config).report.complete
    assert listed == ["labels", "shards"] * 2, "before and after the wave"


def test_a_job_leaves_receipts_from_which_its_report_is_the_same(tmp_path: Path, checkpoint: Path) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=2, images=6), tmp_path / "out", checkpoint)
    outcome = run_quietly(config)
    kept = pq.read_table(next((tmp_path / "out/receipts").glob("*/00000.parquet")))
    assert sorted(zip(kept["shard_id"].to_pylist(), kept["unit"].to_pylist(), strict=True)) == [
        (f"{shard:06d}", unit) for shard in (0, 1) for unit in (0, 1)
    ]
    units = sorted((tmp_path / "out/labels").rglob("*.parquet"))
    assert sorted(kept["size"].to_pylist()) == sorted(unit.stat().st_size for unit in units)
    whole = [unit.read_bytes() for unit in units]
    for unit, data in zip(units, whole, strict=True):
        unit.write_bytes(b"\0" * len(data))
    assert run_quietly(config).report == outcome.report, "no unit is read"
    for unit, data in zip(units, whole, strict=True):
        unit.write_bytes(data)
    shutil.rmtree(tmp_path / "out/receipts")
    assert run_quietly(config).report == outcome.report

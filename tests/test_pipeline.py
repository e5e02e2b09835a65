"""The pipeline on a real local Ray, with a stub detector: rows, resume, faults."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from rich.console import Console

from labeler.config import Config, make_config
from labeler.errors import Incomplete, Refused, StorageError
from labeler.pipeline.blocks import Receipt
from labeler.pipeline.cluster import Workers
from labeler.pipeline.label import Outcome, label
from labeler.pipeline.next_wave import CONCURRENT_UNITS
from labeler.pipeline.session import _images_committed
from labeler.pipeline.suspects import Suspect, label_suspects
from labeler.pipeline.waves import LEAST_UNWRITTEN
from labeler.runs import open_run, read_plan, read_progress, read_snapshot
from labeler.runs.plan import PlannedShard
from labeler.runs.report import Report, build_report
from labeler.runs.snapshot import Snapshot
from labeler.shards import Shard
from tests import label_runs
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.small_disk import small_disk
from tests.stub_detector import MakeStub, Raises

pytestmark = pytest.mark.usefixtures("local_ray")


def config_of(source: Any, output: Path, checkpoint: Path, *overrides: str) -> Config:
    values = {
        "input": str(source) if isinstance(source, Path) else source,
        "output": str(output),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint)},
        "unit": {"max_images": 4},
    }
    return make_config(values, ["ray.cpus_per_worker=1", *overrides])


def run_quietly(config: Config, **options: Any) -> Outcome:
    options.setdefault("make_detector", MakeStub())
    return label(config, console=Console(quiet=True), **options)


def rows_of(output: Path) -> list[dict[str, Any]]:
    run = open_run(str(output))
    assert run is not None
    tables = list(read_snapshot(run).tables())
    return pa.concat_tables(tables).to_pylist() if tables else []


def states_of_workers() -> list[str]:
    """Of the pipeline's workers, of this run and of earlier ones, as Ray's control process knows them."""
    actors = ray._private.state.actors().values()
    return [actor["State"] for actor in actors if "MapWorker" in actor["ActorClassName"]]


def files_of(output: Path) -> dict[str, int]:
    return {str(p.relative_to(output)): p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}


def test_every_image_has_exactly_one_row_and_the_folder_is_as_the_contract_says(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def report_once_workers_are_gone(snapshot: Snapshot) -> Report:
        """A report may take minutes: no worker may keep a GPU meanwhile."""
        end, start = time.time() + 30, time.monotonic()
        while "ALIVE" in states_of_workers() and time.time() < end:
            time.sleep(0.05)
        waited.append(time.monotonic() - start)
        return build_report(snapshot)

    monkeypatch.setattr("labeler.pipeline.session.build_report", report_once_workers_are_gone)
    source = write_tars(tmp_path / "in", shards=3, images=10)
    outcome = run_quietly(config_of(source, tmp_path / "out", checkpoint))
    assert len(waited) == 1
    assert waited[0] < 30
    assert states_of_workers()
    rows = rows_of(tmp_path / "out")
    assert [(r["shard_id"], r["index"]) for r in rows] == [(f"{s:06d}", i) for s in range(3) for i in range(10)]
    assert outcome.report.complete
    assert outcome.report.statuses == {"labeled": 30}
    names = set(files_of(tmp_path / "out"))
    (receipts,) = (name for name in names if name.startswith("receipts/"))
    assert receipts.endswith("/00000.parquet")
    assert names - {receipts} == {
        "run.json", "vocabulary.json", "prompts.json", "plan/00000.parquet", "report.json",
        *(f"labels/{s:06d}/{u:06d}.parquet" for s in range(3) for u in range(3)),
        *(f"shards/{s:06d}-3-10" for s in range(3)),
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "report.json").read_text())["images"] == 30
    metadata = pq.read_schema(tmp_path / "out/labels/000000/000000.parquet").metadata
    assert metadata[b"engine"] == b"stub"
    assert metadata[b"run_id"].decode() == outcome.run.manifest.run_id


def test_a_row_points_at_its_bytes_in_the_shard(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=3)
    run_quietly(config_of(source, tmp_path / "out", checkpoint))
    for row in rows_of(tmp_path / "out"):
        whole = Path(row["uri"]).read_bytes()
        assert whole[row["offset"] : row["offset"] + row["length"]] == image_bytes(row["index"])


def test_bad_images_are_rows_and_the_rest_goes_on(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "in").mkdir()
    members = {"a.png": image_bytes(0), "b.jpg": b"<html>", "c.png": b"", "d.png": image_bytes(1)[:200]}
    (tmp_path / "in" / "x.tar").write_bytes(tar_bytes(members))
    outcome = run_quietly(config_of(tmp_path / "in", tmp_path / "out", checkpoint))
    assert outcome.report.statuses == {"labeled": 1, "decode_error": 3}
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["labeled"] + ["decode_error"] * 3


def test_a_complete_run_is_left_as_it_is(tmp_path: Path, checkpoint: Path) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=1, images=3), tmp_path / "out", checkpoint)
    run_quietly(config)
    before = files_of(tmp_path / "out")
    run_quietly(config)
    after = files_of(tmp_path / "out")
    before.pop("report.json")
    after.pop("report.json")
    assert after == before


def test_resume_does_only_what_is_left(tmp_path: Path, checkpoint: Path) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=2, images=10), tmp_path / "out", checkpoint)
    run_quietly(config)
    whole, before = rows_of(tmp_path / "out"), files_of(tmp_path / "out")
    (tmp_path / "out/labels/000001/000001.parquet").unlink()
    (tmp_path / "in/00000.tar").unlink()  # its shard is finished: it must not be opened again
    run_quietly(config)
    after = files_of(tmp_path / "out")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"labels/000001/000001.parquet", "report.json"}
    assert rows_of(tmp_path / "out") == whole


@pytest.mark.slow
def test_a_damaged_unit_of_an_unfinished_shard_costs_a_line_and_no_other_image(
    tmp_path: Path, checkpoint: Path
) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=2, images=10), tmp_path / "out", checkpoint)
    run_quietly(config)
    whole, labels = rows_of(tmp_path / "out"), tmp_path / "out/labels"
    (labels / "000001/000001.parquet").unlink()
    damaged, intact = labels / "000001/000000.parquet", (labels / "000001/000000.parquet").read_bytes()
    damaged.write_bytes(intact[:100])
    said = io.StringIO()
    with pytest.raises(StorageError, match=r"is damaged .*restore it, or delete it and label again"):
        label(config, console=Console(file=said, width=1000), make_detector=MakeStub())
    assert (
        f"warning: 1 units of earlier sessions are not counted in what is done: {damaged} is damaged" in said.getvalue()
    )
    assert (labels / "000001/000001.parquet").exists(), "the session did all that was left"
    damaged.write_bytes(intact)
    assert run_quietly(config).report.complete
    assert rows_of(tmp_path / "out") == whole


def test_images_of_earlier_sessions_are_counted_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    units = {
        (shard, unit): [label_runs.row(3 * unit + i, shard=shard) for i in range(3)]
        for shard in (0, 1)
        for unit in (0, 1)
    }
    run = label_runs.write_run(
        tmp_path / "run", units, uris=("s3://b/in/part-0.tar", "s3://b/in/part-1.tar"), unfinished=[1]
    )
    plan, progress, said = read_plan(run), read_progress(run), io.StringIO()
    console = Console(file=said, width=1000)
    assert (_images_committed(plan, progress, console), said.getvalue()) == (12, "")
    (tmp_path / "run/labels/000001/000001.parquet").write_bytes(b"")
    assert _images_committed(plan, progress, console) == 9
    assert said.getvalue().count("warning: 1 units") == 1


def test_a_lost_end_marker_is_put_again(tmp_path: Path, checkpoint: Path) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=1, images=10), tmp_path / "out", checkpoint)
    run_quietly(config)
    (tmp_path / "out/shards/000000-3-10").unlink()
    assert run_quietly(config).report.complete
    assert (tmp_path / "out/shards/000000-3-10").exists()


def test_a_dead_worker_costs_nothing(tmp_path: Path, checkpoint: Path) -> None:
    config = config_of(write_tars(tmp_path / "in", shards=2, images=10), tmp_path / "out", checkpoint)
    outcome = run_quietly(config, make_detector=MakeStub(die_once=str(tmp_path / "died")))
    assert (tmp_path / "died").exists()
    assert outcome.report.statuses == {"labeled": 20}


def test_images_that_kill_their_process_are_quarantined_and_all_others_labeled(
    tmp_path: Path, checkpoint: Path
) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=8)
    members = {f"{i}.png": image_bytes(i, width=77 if i == 5 else 40) for i in range(8)}
    (source / "00001.tar").write_bytes(tar_bytes(members))
    config = config_of(source, tmp_path / "out", checkpoint)
    outcome = run_quietly(config, make_detector=MakeStub(die_on_width=77))
    assert outcome.report.complete
    assert outcome.report.statuses == {"labeled": 15, "quarantined": 1}
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len({(row["shard_id"], row["index"]) for row in rows}) == 16
    killers = [row for row in rows if row["status"] == "quarantined"]
    assert [(row["shard_id"], row["index"]) for row in killers] == [("000001", 5)]
    assert all("crashed its process 2 times when labeled alone (exit code 1)" in row["error"] for row in killers)
    assert all(row["digest"] for row in rows)


def test_images_that_raise_are_rows_with_a_reason_and_all_others_labeled(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=4)
    members = {f"{i}.png": image_bytes(i, width=77 if i == 5 else 40) for i in range(8)}
    (source / "00001.tar").write_bytes(tar_bytes(members))
    config = config_of(source, tmp_path / "out", checkpoint)
    outcome = run_quietly(config, make_detector=MakeStub(raise_on_width=77))
    assert outcome.report.complete
    assert outcome.report.statuses == {"labeled": 11, "detect_error": 1}
    (guilty,) = [row for row in rows_of(tmp_path / "out") if row["status"] == "detect_error"]
    assert (guilty["shard_id"], guilty["index"]) == ("000001", 5)
    assert guilty["error"] == "RuntimeError: no such kernel at 0x..."


@pytest.mark.slow
def test_a_detector_that_raises_at_everything_gives_no_rows(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=8)
    with pytest.raises(Incomplete, match="cannot label any image: RuntimeError: broken"):
        run_quietly(config_of(source, tmp_path / "out", checkpoint), make_detector=Raises(RuntimeError("broken")))
    assert not list((tmp_path / "out").glob("labels/*/*.parquet"))


def test_where_nothing_can_be_labeled_apart_either_not_all_suspects_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_vain(suspect: Suspect, read: Any, worker: Any) -> Receipt:
        return Receipt("unit", suspect.planned.shard_id, suspect.unit, error="cannot label any image")

    monkeypatch.setattr("labeler.pipeline.suspects._label_suspect", in_vain)
    planned = PlannedShard(Shard("000000", "a.tar", 1, None, "webdataset"), 4)
    suspects = [Suspect(planned, unit) for unit in range(20)]
    few = list(label_suspects(suspects, None, None, Workers(1, 0, 1), most_in_vain=3))  # type: ignore[arg-type]
    assert 3 <= len(few) <= 3 + 2
    every = list(label_suspects(suspects, None, None, Workers(1, 0, 1)))  # type: ignore[arg-type]
    assert {receipt.unit for receipt in every} == set(range(20))


def test_a_shard_that_vanished_is_named_and_the_others_are_labeled(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=2, images=4)
    config = config_of(source, tmp_path / "out", checkpoint)
    run_quietly(config)
    for name in ("labels/000001/000000.parquet", "shards/000001-1-4"):
        (tmp_path / "out" / name).unlink()
    (source / "00001.tar").unlink()
    with pytest.raises(Refused, match=r"00001\.tar"):  # nothing but this shard is left: the preflight reads it
        run_quietly(config)


def test_a_shard_that_changed_gives_no_rows_and_is_named(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=2, images=4)
    config = config_of(source, tmp_path / "out", checkpoint)
    run_quietly(config)
    for name in ("labels/000001/000000.parquet", "shards/000001-1-4"):
        (tmp_path / "out" / name).unlink()
    (source / "00001.tar").write_bytes(tar_bytes({"other.png": image_bytes(99)}))
    with pytest.raises(Incomplete, match=r"00001\.tar"):
        run_quietly(config)
    assert not (tmp_path / "out/labels/000001/000000.parquet").exists()


def test_another_fingerprint_is_refused_by_field_name(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=1, images=3)
    run_quietly(config_of(source, tmp_path / "out", checkpoint))
    with pytest.raises(Refused, match="another fingerprint") as refused:
        run_quietly(config_of(source, tmp_path / "out", checkpoint, "detect.score_floor=0.2", "unit.max_images=5"))
    assert [line.split(":")[0] for line in refused.value.problems] == ["detect.score_floor", "unit.max_images"]


def test_another_input_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    run_quietly(config_of(write_tars(tmp_path / "in", shards=1, images=3), tmp_path / "out", checkpoint))
    other = write_tars(tmp_path / "other", shards=1, images=3)
    with pytest.raises(Refused, match=r"different input\.uri"):
        run_quietly(config_of(other, tmp_path / "out", checkpoint))


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("precious")
    source = write_tars(tmp_path / "in", shards=1, images=3)
    with pytest.raises(Refused, match=r"not empty and not a labeler run.*thesis\.doc"):
        run_quietly(config_of(source, tmp_path / "out", checkpoint))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.doc"]


def test_a_worker_whose_model_does_not_load_ends_the_run_with_the_reason(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeler.pipeline.cluster.MAX_START_DEATHS", 1)  # each takes seconds

    def broken() -> Any:
        raise RuntimeError("no kernel image is available")

    source = write_tars(tmp_path / "in", shards=1, images=3)
    with pytest.raises(Incomplete, match="no kernel image is available"):
        run_quietly(config_of(source, tmp_path / "out", checkpoint), make_detector=broken)


def test_the_detector_sees_one_unit_at_a_time(tmp_path: Path, checkpoint: Path) -> None:
    """At Ray's default block size forty units of 8 MiB become blocks of 16, and a crash then costs 16 units."""
    import ray

    from labeler.labeling.resolve import plan_input
    from labeler.pipeline.source import ReadSettings, ShardWork, UnitSource

    config = config_of(write_tars(tmp_path / "in", shards=2, images=12), tmp_path / "out", checkpoint)
    work = [ShardWork(planned, done=frozenset({1})) for planned in plan_input(config)]
    settings = ReadSettings(str(tmp_path / "out"), 4, 2**26, 2**28, (), None)
    dataset = ray.data.read_datasource(UnitSource(work, settings), override_num_blocks=2)
    blocks = [ray.get(ref) for bundle in dataset.iter_internal_ref_bundles() for ref in bundle.block_refs]
    assert [block.num_rows for block in blocks] == [1] * 6
    kinds = Counter((block["kind"][0].as_py(), block["unit"][0].as_py()) for block in blocks)
    assert kinds == {("unit", 0): 2, ("unit", 2): 2, ("end", None): 2}


def test_images_and_parquet_are_labeled_like_tars(tmp_path: Path, checkpoint: Path) -> None:
    data = {f"{i}.png": image_bytes(i) for i in range(6)}
    for folder in ("tars", "images", "parquet"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tars" / "x.tar").write_bytes(tar_bytes(data))
    for name, content in data.items():
        (tmp_path / "images" / name).write_bytes(content)
    cells = [{"bytes": content, "path": name} for name, content in data.items()]
    pq.write_table(pa.table({"image": cells}), tmp_path / "parquet" / "x.parquet")
    found = []
    for folder in ("tars", "images", "parquet"):
        output = tmp_path / f"out-{folder}"
        run_quietly(config_of(tmp_path / folder, output, checkpoint))
        found.append({row["image_key"]: (row["digest"], row["detections"]) for row in rows_of(output)})
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6
    assert all(detections for _, detections in found[0].values())


@pytest.mark.slow
def test_a_full_disk_ends_labeling_before_all_is_labeled_for_nothing(tmp_path: Path, checkpoint: Path) -> None:
    source = write_tars(tmp_path / "in", shards=20, images=20)  # 100 units
    log = tmp_path / "detected"
    with small_disk(tmp_path / "out", "200k") as disk:
        config = config_of(source, tmp_path / "out", checkpoint, "ray.workers=1")
        with pytest.raises(Incomplete, match=r"stopped: writes to the output keep failing: .* no space left"):
            run_quietly(config, make_detector=MakeStub(log=str(log)))
        committed = len(list((tmp_path / "out").glob("labels/*/*.parquet")))
        assert 0 < committed < 50
        assert log.stat().st_size // 2 <= (committed + LEAST_UNWRITTEN + 4 * CONCURRENT_UNITS) * 4
        disk.remount("size=64m")
        assert run_quietly(config).report.complete
        assert len(rows_of(tmp_path / "out")) == 400

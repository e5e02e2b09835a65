"""The command as a user runs it: S3 over HTTP, other storage, a killed driver, new shards, `ray job submit`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from labeler import storage
from labeler.detectors import GroundingDino
from labeler.labeling.unit import UnitLabeler
from labeler.labels.records import Row, rows_to_table
from labeler.runs import open_run, read_plan, read_progress, read_snapshot
from labeler.shards import Unit, find_shards, read_units
from tests.conftest import NAMES
from tests.inputs import image_bytes, tar_bytes, write_tars
from tests.log_lines import without_steps
from tests.processes import with_environment
from tests.ray_heads import head_node, slim_clone, submit_label
from tests.s3_server import Proxy, S3Server
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parent.parent


def write_config(path: Path, source: str, output: str, model: object, **sections: object) -> Path:
    values = {
        "input": source,
        "output": output,
        "vocabulary": NAMES,
        "model": {"name": str(model)},
        "detect": {"score_floor": 0.0, "max_detections": 3},
        "unit": {"max_images": 4},
        **sections,
    }
    path.write_text(yaml.safe_dump(values))
    return path


def start_label(config: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.label", str(config), "ray.cpus_per_worker=1", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_label(config: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    process = start_label(config, *arguments, env=env)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


def rows_of(output: str) -> list[dict[str, Any]]:
    run = open_run(output)
    assert run is not None
    return pa.concat_tables(read_snapshot(run).tables()).to_pylist()


def finished_shards(output: str) -> list[str]:
    """URIs of the shards whose every unit is committed (the end marker alone comes earlier)."""
    run = open_run(output)
    if run is None:
        return []
    progress = read_progress(run)
    return [p.shard.uri for p in read_plan(run) if progress.is_finished(p.shard_id)]


def units_put(server: S3Server, output: str) -> int:
    """How many files of units were written below a run's labels, by the server's log."""
    labels = f"/{output.removeprefix('s3://')}/labels/"
    return sum(method == "PUT" and path.startswith(labels) for method, path, _ in server.requests())


def labeled_plainly(source: str, checkpoint: Path) -> list[dict[str, Any]]:
    """The rows of an input as they come without Ray, units, files or faults: one image after the other."""
    detector = GroundingDino(checkpoint, NAMES, threads=1, score_floor=0.0, max_detections=3)
    labeler = UnitLabeler(detector, decode_threads=0, images_per_batch=1)
    rows: list[Row] = []
    for number, shard in enumerate(find_shards(source)):
        for unit in read_units(shard):
            if isinstance(unit, Unit):
                rows += labeler.label(f"{number:06d}", unit.items)[0]
    return rows_to_table(rows).to_pylist()


def put_tars(uri: str, *, shards: int, images: int, first: int = 0) -> list[str]:
    """Tars straight to storage; returns their URIs."""
    uris = []
    for shard in range(first, first + shards):
        members = {f"{i:04d}.png": image_bytes(shard * 1000 + i) for i in range(images)}
        uris.append(storage.join(uri, f"{shard:05d}.tar"))
        storage.put(uris[-1], tar_bytes(members))
    return uris


@pytest.mark.slow
@pytest.mark.parametrize("option", ["unsigned", "requester_pays"])
def test_buckets_of_somebody_else_are_read_by_workers_and_by_what_comes_later(
    tmp_path: Path, checkpoint: Path, s3_server: S3Server, bucket: str, proxy: Proxy, option: str
) -> None:
    other = s3_server.create_bucket(f"other-{option.replace('_', '-')}")
    put_tars(f"{other}/in", shards=2, images=3)
    for file in checkpoint.iterdir():
        storage.put(f"{other}/model/{file.name}", file.read_bytes())
    (proxy.public if option == "unsigned" else proxy.paying).add(other.removeprefix("s3://"))
    options, env = {option: True}, {**s3_server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
    env["LABELER_CACHE"] = str(tmp_path / "cache")
    config = write_config(tmp_path / "c.yaml", "", f"{bucket}/run", "")
    values = yaml.safe_load(config.read_text())
    values |= {"input": {"uri": f"{other}/in", "s3": options}, "model": {"name": f"{other}/model", "s3": dict(options)}}
    config.write_text(yaml.safe_dump(values))
    assert "6 images" in run_label(config, env=env)
    assert sorted(row["status"] for row in rows_of(f"{bucket}/run")) == ["labeled"] * 6
    for command in (["export", "--to", "webdataset", "--output", str(tmp_path / "out")], ["report"]):
        done = subprocess.run(
            [sys.executable, "-m", "labeler.cli", command[0], f"{bucket}/run", *command[1:]],
            cwd=ROOT, env={**os.environ, **env}, text=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*.tar"))) == 1


@pytest.mark.slow  # a minute: it waits for what takes time
def test_expired_credentials_are_named_before_anything_fails_and_the_run_goes_on_once_they_are_renewed(
    tmp_path: Path, checkpoint: Path, s3_server: S3Server, bucket: str, proxy: Proxy
) -> None:
    put_tars(f"{bucket}/in", shards=6, images=16)
    config = write_config(tmp_path / "c.yaml", f"{bucket}/in", f"{bucket}/run", checkpoint, ray={"read_tasks": 1})
    process = start_label(config, env={**s3_server.env, "AWS_ENDPOINT_URL": proxy.endpoint})
    wait_until(lambda: process.poll() is not None or finished_shards(f"{bucket}/run"))
    proxy.key_id = "NEWKEY"
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    named = next((line for line in lines if "have expired" in line), "")
    proxy.key_id = None
    assert named.startswith("storage is tried again: the AWS credentials have expired"), named
    assert "will repeat" not in "".join(lines), "no operation had failed by then"
    assert process.wait(timeout=PATIENCE_S) == 0
    assert len(rows_of(f"{bucket}/run")) == 6 * 16


def test_s3_in_and_out_with_a_killed_driver(tmp_path: Path, checkpoint: Path, s3_server: S3Server, bucket: str) -> None:
    put_tars(f"{bucket}/in", shards=4, images=16)
    for file in checkpoint.iterdir():
        storage.put(f"{bucket}/model/{file.name}", file.read_bytes())
    env = {**s3_server.env, "LABELER_CACHE": str(tmp_path / "cache")}
    output = f"{bucket}/run"
    config = write_config(tmp_path / "c.yaml", f"{bucket}/in", output, f"{bucket}/model", ray={"read_tasks": 1})

    # SIGKILL at the first finished shard ...
    process = start_label(config, env=env)
    # Asking for finished shards is a dozen requests, which take the server's time from the job: ask its log first.
    wait_until(lambda: process.poll() is not None or (units_put(s3_server, output) >= 4 and finished_shards(output)))
    assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    wait_until(lambda: not with_environment(env["LABELER_CACHE"]))  # its local cluster notices, and writes no more
    run = open_run(output)
    assert run is not None
    plan, before = read_plan(run), read_progress(run)
    assert before.left(plan), "killed too late to show anything"
    finished = finished_shards(output)
    gets = {uri: s3_server.gets(uri.removeprefix("s3://")) for uri in finished}

    # ... and the same command again.
    run_label(config, env=env)
    rows = rows_of(output)
    assert Counter((r["shard_id"], r["index"]) for r in rows) == Counter(
        (f"{s:06d}", i) for s in range(4) for i in range(16)
    )
    assert {r["status"] for r in rows} == {"labeled"}
    for uri, count in gets.items():
        assert s3_server.gets(uri.removeprefix("s3://")) == count, "a finished shard was opened again"

    assert rows == labeled_plainly(f"{bucket}/in", checkpoint)


@pytest.mark.slow  # a minute; test_pipeline_extend shows the same of local files
def test_new_shards_on_s3_are_read_and_nothing_else(
    tmp_path: Path, checkpoint: Path, s3_server: S3Server, bucket: str
) -> None:
    tars, output = put_tars(f"{bucket}/in", shards=2, images=5), f"{bucket}/run"
    config = write_config(tmp_path / "c.yaml", f"{bucket}/in", output, checkpoint)
    run_label(config, env=s3_server.env)
    old = {uri: s3_server.gets(uri.removeprefix("s3://")) for uri in tars}
    new = put_tars(f"{bucket}/in", shards=3, images=5, first=2)
    run_label(config, "--extend", env=s3_server.env)
    assert Counter(r["shard_id"] for r in rows_of(output)) == {f"{s:06d}": 5 for s in range(5)}
    assert {uri: s3_server.gets(uri.removeprefix("s3://")) for uri in tars} == old
    assert all(s3_server.gets(uri.removeprefix("s3://")) for uri in new)


def test_s3_refusals_are_one_line_and_write_nothing(
    tmp_path: Path, checkpoint: Path, s3_server: S3Server, bucket: str
) -> None:
    put_tars(f"{bucket}/in", shards=1, images=2)
    cases = {
        "s3://no-such-bucket-here/in": (f"{bucket}/run", s3_server.env),
        f"{bucket}/nothing": (f"{bucket}/run", s3_server.env),
        f"{bucket}/in": ("s3://no-such-bucket-here/run", s3_server.env),
        f"{bucket}/in/": (f"{bucket}/run", {**s3_server.env, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}),
    }
    for source, (output, env) in cases.items():
        config = write_config(tmp_path / "c.yaml", source, output, checkpoint)
        process = start_label(config, env={**env, "AWS_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path)})
        _, err = process.communicate(timeout=PATIENCE_S)
        lines = [line for line in without_steps(err) if line.strip()]
        assert process.returncode == 2, (source, err)
        assert len(lines) == 1, err
        assert lines[0].startswith("labeler: ")
    assert not list(storage.list_objects(f"{bucket}/run"))


@pytest.mark.slow  # a minute; what is special about such storage is in test_storage
def test_a_storage_that_only_fsspec_knows(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=2, images=5)
    source, output = f"local://{tmp_path}/in", f"local://{tmp_path}/out"
    config = write_config(tmp_path / "c.yaml", source, output, checkpoint)
    process = start_label(config)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "single_writer" in err
    assert not (tmp_path / "out" / "run.json").exists()
    run_label(config, "output.single_writer=true")
    assert Counter(row["status"] for row in rows_of(output)) == {"labeled": 10}


def test_a_stopped_run_ends_with_exit_code_1_and_keeps_what_it_has(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=3, images=16)
    config = write_config(tmp_path / "c.yaml", str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    process = start_label(config)
    wait_until(lambda: process.poll() is not None or list((tmp_path / "out" / "labels").rglob("*.parquet")))
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, err
    assert "stopped by SIGTERM; run the same command again" in err
    rows = rows_of(str(tmp_path / "out"))  # another test resumes after a SIGKILL, which is worse
    assert 0 < len(rows) == len({(row["shard_id"], row["index"]) for row in rows}) < 48


@pytest.mark.slow
def test_two_jobs_on_one_run_at_once(tmp_path: Path, checkpoint: Path) -> None:
    write_tars(tmp_path / "in", shards=3, images=12)
    config = write_config(tmp_path / "c.yaml", str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    jobs = [start_label(config), start_label(config)]
    for job in jobs:
        _, err = job.communicate(timeout=PATIENCE_S)
        assert job.returncode == 0, err
    rows = [(row["shard_id"], row["index"]) for row in rows_of(str(tmp_path / "out"))]
    assert rows == [(f"{shard:06d}", i) for shard in range(3) for i in range(12)]


@pytest.mark.parametrize("also_by_ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ray_job_submit_and_labeler_submit_are_equal(tmp_path: Path, checkpoint: Path, also_by_ray: bool) -> None:
    write_tars(tmp_path / "in", shards=1, images=5)
    ray = {"cpus_per_worker": 1, "gpus_per_worker": 0}
    config = write_config(tmp_path / "c.yaml", str(tmp_path / "in"), str(tmp_path / "out"), checkpoint, ray=ray)
    clone, other = slim_clone(tmp_path / "clone"), tmp_path / "other"
    with head_node() as address:
        command = [sys.executable, "-m", "labeler", "submit", str(config), f"output={other}", "--address", address]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        results = {other: done}
        if also_by_ray:
            results[tmp_path / "out"] = submit_label(address, clone, config)
    for output, result in results.items():
        assert result.returncode == 0, result.stdout + result.stderr
        assert "complete: 5 images" in result.stdout
        assert json.loads((output / "report.json").read_text())["complete"]
        rows = rows_of(str(output))
        assert len(rows) == 5
        assert rows == rows_of(str(other))

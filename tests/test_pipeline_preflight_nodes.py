"""The preflight where work will run: a head that has all that a job needs, and workers that lack something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from labeler import storage
from tests.conftest import NAMES
from tests.inputs import tar_bytes
from tests.ray_heads import ROOT, Head, ray_head, ray_node
from tests.s3_server import S3Server
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow  # each starts a cluster of two nodes
REPO = "org/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def label(
    head: Head, folder: Path, environment: Mapping[str, str], **values: object
) -> subprocess.CompletedProcess[str]:
    """The driver, on the head: it joins the cluster, and has the head's environment."""
    config = folder / "c.yaml"
    ray = {"address": head.address, "gpus_per_worker": 0, "cpus_per_worker": 1, "start_timeout_s": PATIENCE_S}
    config.write_text(yaml.safe_dump({"vocabulary": NAMES, "ray": ray, **values}))
    return subprocess.run(
        [sys.executable, "-m", "labeler", "label", str(config)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr.splitlines()[-1]


def test_workers_without_credentials_are_one_line_before_anything_is_written(
    tmp_path: Path, checkpoint: Path, s3_server: S3Server, bucket: str
) -> None:
    storage.put(f"{bucket}/in/a.tar", tar_bytes({"a.png": b"x"}))
    without = {**s3_server.env, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": os.devnull}
    with (
        ray_head("--num-cpus=0", more=s3_server.env) as head,
        ray_node(head, "--num-cpus=3", more={**without, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}),
    ):
        values = {"input": f"{bucket}/in", "output": f"{bucket}/out", "model": {"name": str(checkpoint)}}
        line = last_line(label(head, tmp_path, s3_server.env, **values))
    assert line.startswith("labeler: on node ")
    assert f"{bucket}/in/a.tar" in line
    assert "redentials" in line
    assert [each.uri for each in storage.list_objects(bucket)] == [f"{bucket}/in/a.tar"]


def test_weights_that_workers_lack_are_one_line_before_anything_is_written(tmp_path: Path, checkpoint: Path) -> None:
    """A hub's cache on the head, and none on the worker, which cannot reach the hub."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes({"a.png": b"x"}))
    cache = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    shutil.copytree(checkpoint, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    has = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    lacks = {"HF_HUB_CACHE": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    with ray_head("--num-cpus=0", more=has) as head, ray_node(head, "--num-cpus=3", more=lacks):
        values = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "model": {"name": REPO}}
        line = last_line(label(head, tmp_path, has, **values))
    assert line.startswith("labeler: on node ")
    assert f"checkpoint {REPO}" in line
    assert "is not in the local cache and the hub cannot be reached" in line
    assert not (tmp_path / "out").exists()

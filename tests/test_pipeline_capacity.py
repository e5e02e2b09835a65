"""Waiting for capacity on a cluster that was not started here, and GPUs that torch cannot use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from labeler.detectors.cuda import why_no_cuda
from labeler.errors import Refused
from labeler.labeling.recipe import LabelerRecipe
from labeler.pipeline.worker import WorkerSettings, make_labeler
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.log_lines import without_steps
from tests.ray_heads import Head, ray_folder, ray_head, ray_node
from tests.stub_detector import MakeStub
from tests.training_parts import job_values

ROOT = Path(__file__).parent.parent
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs of these clusters must be made up")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    """Somebody's cluster: a head without GPUs."""
    with ray_head("--num-cpus=2") as head:
        yield head


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> Path:
    values = {
        "input": str(write_tars(tmp_path / "in", shards=1, images=2)),
        "output": str(tmp_path / "out"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint)},
        "ray": {"address": "auto", "cpus_per_worker": 1},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(head: Head, verb: str, config: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "labeler.cli", verb, str(config), *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=head.environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def test_a_cluster_without_gpus_is_waited_for_aloud_and_never_labels_on_cpus(cluster: Head, config: Path) -> None:
    job = start(cluster, "label", config, "ray.start_timeout_s=2")
    _, said = job.communicate(timeout=300)
    joined, waiting, refusal = without_steps(said)
    assert joined.endswith("1 node, 2 CPUs, 0 GPUs")
    assert waiting.startswith("waiting until 2")
    assert "(ray.start_timeout_s=2) for a node with a GPU: " in waiting
    assert "ray.gpus_per_worker=0" in waiting
    assert "room for a worker of 1 GPU, 1 CPU in vain; the cluster has 1 node of 2 CPU, 0 GPU" in refusal
    assert job.returncode == 2
    assert not (config.parent / "out" / "run.json").exists()


def test_a_worker_that_is_too_large_for_the_nodes_is_refused_where_nothing_launches_others(
    cluster: Head, config: Path
) -> None:
    job = start(cluster, "label", config, "ray.start_timeout_s=600", "ray.gpus_per_worker=0", "ray.cpus_per_worker=3")
    _, refusal = without_steps(job.communicate(timeout=300)[1])
    assert refusal.startswith("labeler: no node can hold a worker of 3 CPU, the cluster has 1 node of 2 CPU, 0 GPU;")
    assert job.returncode == 2
    job = start(cluster, "label", config, "ray.start_timeout_s=1", "ray.accelerator_type=L4")
    waiting = without_steps(job.communicate(timeout=300)[1])[1]
    assert "for a node with a GPU on L4: the cluster has none yet" in waiting, "such a node may still join by hand"
    assert job.returncode == 2


@pytest.mark.slow  # another node has to start
def test_a_worker_that_is_too_large_for_the_nodes_of_now_is_waited_for_where_an_autoscaler_launches_others(
    cluster: Head, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_NODE_TYPE_NAME", "workers")  # as KubeRay sets it
    with ray_node(cluster, "--num-cpus=1", "--num-gpus=1"):
        overrides = ("ray.gpus_per_worker=2", "ray.start_timeout_s=8")
        said = "has none yet"
        while "has none yet" in said:
            said = start(cluster, "label", config, *overrides).communicate(timeout=300)[1]
    assert "(ray.start_timeout_s=8) for room for a worker of 2 GPU, 1 CPU; the cluster has 2 nodes" in said


def test_cpus_that_are_asked_for_are_used_at_once(cluster: Head, config: Path) -> None:
    job = start(cluster, "label", config, "ray.gpus_per_worker=0")
    assert job.stderr is not None
    while "shards on" not in (line := job.stderr.readline()):
        assert line, "ended before it labeled"
        assert "for a node with a GPU" not in line
    job.terminate()  # that such a run gets to its end is shown by test_ray_job_submit_and_labeler_submit_are_equal
    job.communicate(timeout=300)


@without_gpu
@pytest.mark.slow  # a minute: it waits for what takes time
def test_a_gpu_that_torch_cannot_use_is_refused_before_labeling_unless_the_cpu_is_meant(
    cluster: Head, config: Path
) -> None:
    job = start(cluster, "label", config, "ray.start_timeout_s=600")
    assert job.stderr is not None
    while "for a node with a GPU" not in (line := job.stderr.readline()):
        assert line, "ended before it waited"
    with ray_node(cluster, "--num-cpus=2", "--num-gpus=1"):  # what an autoscaler would do
        _, said = job.communicate(timeout=300)
        assert job.returncode == 2, said
        assert f"(torch {torch.__version__}: Torch not compiled with CUDA enabled)" in said.splitlines()[-1]
        assert "model.device=cpu" in said.splitlines()[-1]
        assert not (config.parent / "out" / "run.json").exists()
        job = start(cluster, "label", config, "model.device=cpu", "ray.gpus_per_worker=1")
        _, said = job.communicate(timeout=300)
        assert job.returncode == 0, said
        training = config.parent / "train.yaml"
        values = job_values(config.parent / "trained", train={"steps": 1, "batch_size": 1})
        training.write_text(yaml.safe_dump({**values, "ray": {"use_gpu": True, "address": "auto"}}))
        job = start(cluster, "train", training)
        _, said = job.communicate(timeout=300)
        assert "Torch not compiled with CUDA enabled" in said.splitlines()[-1]
        assert job.returncode == 2, said


@without_gpu
def test_a_worker_whose_reserved_gpu_torch_cannot_use_does_not_start() -> None:
    """A node that joins late was not there to be tried before labeling."""
    settings = WorkerSettings("", LabelerRecipe(MakeStub()), {}, (), 10)
    make_labeler(settings)
    with pytest.raises(Refused, match=r"torch cannot use the GPU that is reserved for it on node .*torch 2"):
        make_labeler(WorkerSettings("", LabelerRecipe(MakeStub()), {}, (), 10, needs_cuda=True))


@without_gpu
def test_why_there_is_no_cuda_is_one_line_with_torchs_version() -> None:
    assert why_no_cuda().startswith(f"torch {torch.__version__}: ")
    assert "\n" not in why_no_cuda()


@pytest.mark.slow
def test_the_loss_of_the_last_node_for_a_worker_is_said_once_and_its_return_too() -> None:
    program = """
import io, sys, time, ray
from ray.cluster_utils import Cluster
from rich.console import Console
from labeler.pipeline.capacity import announcing_loss
from labeler.pipeline.cluster import Workers
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)
with announcing_loss(Workers(1, 1.0, 1.0), 60, Console(file=sys.stdout, width=1000), every_s=0.1):
    while sys.stdin.readline():
        cluster.add_node(num_cpus=1, num_gpus=1)
print("end")
cluster.shutdown()
"""
    with ray_folder() as folder:
        environment = {**os.environ, "RAY_TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        job = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert job.stdin is not None
        assert job.stdout is not None
        lost = job.stdout.readline()
        print(file=job.stdin, flush=True)
        again = job.stdout.readline()
        said, _ = job.communicate(timeout=300)
    assert lost.startswith("no node is left that can hold a worker of 1 GPU, 1 CPU, the cluster has 1 node of 1 CPU")
    assert "; waiting for one until 2" in lost
    assert again == "a node can hold a worker again\n"
    assert said == "end\n"

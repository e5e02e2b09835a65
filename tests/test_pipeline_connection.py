"""Which Ray cluster a job runs on."""

from __future__ import annotations

import io
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from labeler.errors import Refused
from labeler.pipeline import connection
from labeler.pipeline.connection import RayTarget, choose_target, connect, noted_cluster, unreachable
from tests.ray_heads import as_others, free_port, ray_folder, ray_head

ROOT = Path(__file__).parent.parent
JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


def connected(*settings: str, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a process says that connects with each of these for `ray.address`, one after the other."""
    command = [sys.executable, "-m", "tests.connecting", *settings]
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        (None, {}, RayTarget("local")),
        (None, {"RAY_ADDRESS": ""}, RayTarget("local")),
        (None, {"RAY_ADDRESS": "h:1"}, RayTarget("h:1", "RAY_ADDRESS")),
        (None, {"RAY_ADDRESS": "h:1", **JOB}, RayTarget("h:1", "RAY_ADDRESS")),
        (None, JOB, RayTarget("auto", "the environment of this Ray job")),
        ("local", {"RAY_ADDRESS": "h:1", **JOB}, RayTarget("local", "ray.address")),
        ("g:2", {"RAY_ADDRESS": "h:1"}, RayTarget("g:2", "ray.address")),
        ("auto", {}, RayTarget("auto", "ray.address")),
        ("auto", {"RAY_ADDRESS": "h:1"}, RayTarget("h:1", "RAY_ADDRESS")),  # as for Ray itself
    ],
)
def test_the_configuration_comes_before_the_environment_and_both_before_a_new_cluster(
    setting: str | None, environment: dict[str, str], expected: RayTarget
) -> None:
    assert choose_target(setting, environment) == expected


@pytest.mark.slow
def test_a_cluster_that_happens_to_run_here_is_named_and_not_joined_unless_asked_for() -> None:
    with ray_head("--num-cpus=1") as head:
        noted = head.note.read_text()
        alone, auto, local = connected("", "auto", "local", environment=head.environment)
        named = connected("", environment={**head.environment, "RAY_ADDRESS": head.address})[0]
    assert alone["started"]
    assert alone["address"] != noted
    assert f"a Ray cluster runs on this machine at {noted}" in alone["said"]
    assert "ray.address=auto" in alone["said"]
    assert f"started Ray on this machine at {alone['address']}: 1 node," in alone["said"]
    assert local["started"]
    assert local["address"] != noted
    assert local["said"].count("\n") == 1, "who asks for a cluster of its own needs no hint"
    assert (auto["started"], auto["address"]) == (False, noted)
    assert auto["said"] == f"joined the Ray cluster at {noted} (ray.address): 1 node, 1 CPU, 0 GPUs\n"
    assert (named["started"], named["address"]) == (False, noted)
    assert "(RAY_ADDRESS)" in named["said"]


def test_what_cannot_be_joined_is_one_line_that_names_who_asked_for_it() -> None:
    gone = f"127.0.0.1:{free_port()}"
    with ray_folder() as folder:
        (folder / "ray").mkdir()
        note = folder / "ray" / "ray_current_cluster"
        note.write_text(gone)
        environment = {**os.environ, "RAY_TMPDIR": str(folder)}
        auto, address, words = connected("auto", gone, "a cluster", environment=environment)
        from_environment = connected("", environment={**environment, "RAY_ADDRESS": gone})[0]
        dashboard = connected("", environment={**environment, "RAY_ADDRESS": "http://127.0.0.1:8265"})[0]
    assert f"the Ray cluster at {gone} (see {note})" in auto["refused"]
    assert address["refused"] == f"Ray cluster {gone} cannot be reached: Connection refused; check ray.address"
    assert "use HOST:PORT; check ray.address" in words["refused"]
    assert from_environment["refused"].endswith("Connection refused; check RAY_ADDRESS")
    assert "RAY_ADDRESS: http://127.0.0.1:8265 is the address of a Ray dashboard" in dashboard["refused"]
    for refusal in (auto, address, words, from_environment, dashboard):
        assert "\n" not in refusal["refused"]


def test_auto_without_a_note_is_the_one_cluster_that_runs_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    gone, auto = f"127.0.0.1:{free_port()}", RayTarget("auto", "ray.address")
    with socket.socket() as one, socket.socket() as other:
        for listener in (one, other):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        here, there = (f"127.0.0.1:{listener.getsockname()[1]}" for listener in (one, other))
        for running, expected in (({here, gone}, here), ({gone}, "none runs here"), ({here, there}, "2 run here")):
            monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda running=running: running)
            if expected == here:
                assert connection._resolve(auto) == here
                continue
            with pytest.raises(Refused, match=f"ray.address: auto means .*{expected}.*ray.address=local"):
                connection._resolve(auto)


def test_a_note_of_a_dead_cluster_names_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert noted_cluster() is None
    (tmp_path / "ray").mkdir()
    for text in (f"127.0.0.1:{free_port()}", "", "\n", "nonsense"):
        (tmp_path / "ray" / "ray_current_cluster").write_text(text)
        assert noted_cluster() is None
    (tmp_path / "ray" / "ray_current_cluster").write_bytes(b"\xff\xfe")
    assert noted_cluster() is None


@pytest.mark.slow
def test_a_cluster_of_another_python_is_one_line(tmp_path: Path) -> None:
    ray, here = version("ray"), platform.python_version()
    with ray_head("--num-cpus=1", more=as_others(tmp_path / "others", ray=ray, python="3.12.9")) as head:
        (said,) = connected(head.address, environment=os.environ)
    assert said["refused"] == (
        f"Ray cluster {head.address} runs Ray {ray}, Python 3.12.9, and this process Ray {ray}, Python {here}: "
        "use the cluster's versions; check ray.address"
    )


def test_a_ray_that_does_not_start_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overloaded(*_: object, **__: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nThe GCS has become overloaded.")

    monkeypatch.setattr(connection.ray, "init", overloaded)  # as on a machine that is too busy
    with pytest.raises(Refused) as refused:
        connection._start(RayTarget("local", "ray.address"), Console(file=io.StringIO()), False)
    says = "the GCS has become overloaded; if this machine is busy, run the command again; Ray's logs are below"
    assert says in str(refused.value).replace("The GCS", "the GCS")


def test_an_address_that_nobody_can_connect_to_says_why() -> None:
    assert unreachable("no-port", 1) == "not an address, use HOST:PORT"
    assert unreachable(f"127.0.0.1:{free_port()}", 1) == "Connection refused"
    assert unreachable(f"[::1]:{free_port()}", 1)
    assert unreachable("no-such-host.invalid:6379", 1)


def test_a_ray_that_the_process_has_started_is_used_as_it_is(local_ray: None) -> None:
    import ray

    said, address = io.StringIO(), ray.get_runtime_context().gcs_address
    assert connect("127.0.0.1:1", Console(file=said, width=1000)), "no autoscaler can add to what `ray.init` started"
    assert said.getvalue().startswith(f"using the Ray of this process at {address}: 1 node, 3 CPUs")


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_a_ray_that_was_started_here_listens_on_loopback_alone(local_ray: None) -> None:
    """Anybody who reaches a port of Ray's can run code."""
    import ray

    psutil = pytest.importorskip("psutil")  # ray brings it along, so it comes after ray

    class Worker:
        def process(self) -> int:
            return os.getpid()

    worker = ray.remote(Worker).options(num_cpus=0).remote()
    started = ray.get(worker.process.remote())
    me = psutil.Process()
    processes = {me.pid: me, **{child.pid: child for child in me.children(recursive=True)}}
    assert started in processes
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes.values()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    assert set(listening) == {"127.0.0.1"}

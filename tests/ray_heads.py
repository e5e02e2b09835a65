"""A Ray cluster that somebody else runs on this machine, as `ray start --head` starts it; and jobs that it is sent."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import kill_all_called_with
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
_PATIENCE_S = 180.0


@dataclass(frozen=True)
class Head:
    """A running head node.

    Attributes:
        environment: of a process that looks for Ray's note of this cluster.
    """

    address: str
    folder: Path
    environment: dict[str, str]

    @property
    def note(self) -> Path:
        return self.folder / "ray" / "ray_current_cluster"


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder for RAY_TMPDIR: sockets need a shorter path than pytest's folders. All Ray in it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="r"))
    try:
        yield folder
    finally:
        kill_all_called_with(f"{folder}/")  # asked to stop, it takes half a minute
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_head(*options: str, more: Mapping[str, str] | None = None) -> Iterator[Head]:
    """A head node without a dashboard, in a folder of its own, with `more` in its environment."""
    with ray_folder() as folder:
        environment = {**os.environ, "RAY_TMPDIR": str(folder)}
        address = f"127.0.0.1:{free_port()}"
        ports = [f"--port={address.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
        fixed = ["--block", "--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
        command = [*RAY, "start", "--head", *ports, *fixed, *options]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                command, env={**environment, **(more or {})}, stdout=log, stderr=subprocess.STDOUT
            ) as node,
        ):
            head = Head(address, folder, environment)
            try:
                _wait_until_noted(head, node)
                yield head
            finally:
                kill_all_called_with(f"{folder}/")
                node.kill()


@contextmanager
def ray_node(head: Head, *options: str, more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Another node of the cluster, started and joined while the block runs, with `more` in its environment."""
    with ray_folder() as folder:
        command = [*RAY, "start", f"--address={head.address}", "--block", "--disable-usage-stats", *options]
        environment = {**os.environ, "RAY_TMPDIR": str(folder), **(more or {})}
        options_of_process = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*command, f"--temp-dir={folder}/ray"], **options_of_process) as node:
            try:
                yield
            finally:
                kill_all_called_with(f"{folder}/")
                node.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_noted(head: Head, node: subprocess.Popen[bytes]) -> None:
    """Ray writes its note once the head node runs."""
    deadline = time.monotonic() + _PATIENCE_S
    while not head.note.exists():
        if node.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((head.folder / "log").read_text())
        time.sleep(0.2)


def submit_label(address: str, folder: Path, config: Path | str) -> subprocess.CompletedProcess[str]:
    """What `ray job submit --working-dir FOLDER -- python -m jobs.label CONFIG` does on a head node."""
    submit = [*RAY, "job", "submit", f"--address={address}", "--working-dir", str(folder), "--"]
    entry = [sys.executable, "-m", "jobs.label", str(config), "ray.cpus_per_worker=1", "ray.gpus_per_worker=0"]
    for _ in range(150):
        result = subprocess.run([*submit, *entry], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if "No available agent" not in result.stderr:
            break
        time.sleep(2)  # the job server answers before the node's agent does
    return result


@contextmanager
def head_node(more: Mapping[str, str] | None = None) -> Iterator[str]:
    """A Ray head with its job server, and `more` in its environment; yields the address to submit to."""
    folder = tempfile.mkdtemp(prefix="r")  # Ray's sockets need a shorter path than pytest's folders
    # Every port that has a fixed default: another Ray of the tests may hold those. A node whose agent finds its port
    # taken starts all the same, and never has an "available agent".
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = {name: free_port() for name in names}
    dashboard = ports["dashboard-port"]
    options = [*(f"--{name}={port}" for name, port in ports.items()), f"--temp-dir={folder}", "--num-cpus=3"]
    command = [*RAY, "start", "--head", "--block", "--include-dashboard=true", "--disable-usage-stats", *options]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where jobs find `python`
    environment = {**os.environ, "PATH": path, **(more or {})}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as node:
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_until_it_answers(f"{address}/api/jobs/", node)
            yield address
        finally:
            kill_all_called_with(folder)  # asked to stop, it takes half a minute
            node.wait(timeout=PATIENCE_S)
            shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(url: str, node: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and node.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"no job server at {url}")


def as_others(folder: Path, *, ray: str, python: str) -> dict[str, str]:
    """The environment of a cluster whose processes say that they are these versions; needs a folder for a file."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('ray' in word for word in sys.orig_argv):\n"
        "    import ray, ray._private.utils\n"
        f"    ray.__version__ = {ray!r}\n"
        f"    ray._private.utils.compute_version_info = lambda: ({ray!r}, {python!r})\n"
    )
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def slim_clone(folder: Path, *more: str) -> Path:
    """The files that `--working-dir .` of a clean clone sends: the packages, no environment and no demo."""
    folder.mkdir()
    for name in ("labeler", "jobs", *more):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder

"""A Ray cluster that somebody else runs on this machine, as `ray start --head` starts it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import kill_all_called_with

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
def ray_head(*options: str) -> Iterator[Head]:
    """A head node without a dashboard, in a folder of its own."""
    with ray_folder() as folder:
        environment = {**os.environ, "RAY_TMPDIR": str(folder)}
        address = f"127.0.0.1:{free_port()}"
        ports = [f"--port={address.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
        fixed = ["--block", "--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
        command = [*RAY, "start", "--head", *ports, *fixed, *options]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as node,
        ):
            head = Head(address, folder, environment)
            try:
                _wait_until_noted(head, node)
                yield head
            finally:
                kill_all_called_with(f"{folder}/")
                node.kill()


@contextmanager
def ray_node(head: Head, *options: str) -> Iterator[None]:
    """Another node of the cluster, started and joined while the block runs."""
    with ray_folder() as folder:
        command = [*RAY, "start", f"--address={head.address}", "--block", "--disable-usage-stats", *options]
        environment = {**os.environ, "RAY_TMPDIR": str(folder)}
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

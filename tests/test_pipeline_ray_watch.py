"""Ray's own processes killed under a job."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from labeler.pipeline.ray_watch import Watched, watch
from tests.conftest import NAMES
from tests.inputs import write_tars
from tests.processes import pids_called_with
from tests.ray_heads import ray_folder

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_job_whose_control_process_was_killed_ends_with_a_line(tmp_path: Path, checkpoint: Path) -> None:
    """Ray itself ends such a driver after a minute, with the same exit code and nothing printed."""
    config = {
        "input": str(write_tars(tmp_path / "in", shards=1, images=2)),
        "output": str(tmp_path / "out"),
        "vocabulary": NAMES,
        "model": {"name": str(checkpoint)},
        "ray": {"cpus_per_worker": 1, "address": "local"},
    }
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"config": config, "stub": {"seconds": 3600.0}}))
    with ray_folder() as folder:
        job = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos_driver", str(spec)],
            cwd=ROOT, env={**os.environ, "RAY_TMPDIR": str(folder)}, text=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert job.stderr is not None
        while "shards on" not in (line := job.stderr.readline()):
            assert line, "ended before it labeled"
        for process in pids_called_with(f"{folder}/"):
            if Path(f"/proc/{process}/comm").read_text().strip() == "gcs_server":
                os.kill(process, signal.SIGKILL)
        _, said = job.communicate(timeout=300)
    last = said.splitlines()[-1]
    assert last.startswith("labeler: Ray's control process (GCS) at ")
    assert "run the same command again to resume" in last
    assert job.returncode == 1


def test_what_accepts_connections_lives_and_what_does_not_is_named_after_its_time() -> None:
    lost: list[Watched] = []
    with socket.create_server(("127.0.0.1", 0)) as alive, socket.create_server(("127.0.0.1", 0)) as dying:
        first, second = (Watched("a server", f"127.0.0.1:{s.getsockname()[1]}", 0.0) for s in (alive, dying))
        patient = Watched("patient", second.address, 3600.0)
        thread = threading.Thread(target=watch, args=([first, patient, second], lost.append, threading.Event()))
        thread.start()
        dying.close()
        thread.join()
    assert lost == [second]


def test_a_watch_that_is_stopped_names_nobody() -> None:
    stopped, lost = threading.Event(), list[Watched]()
    stopped.set()
    watch([Watched("gone", "127.0.0.1:1", 0.0)], lost.append, stopped)
    assert lost == []

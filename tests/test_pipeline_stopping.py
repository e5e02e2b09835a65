"""Signals that end a job: one line, exit code 1, and no process of Ray left, whenever they come and however many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.inputs import write_tars
from tests.processes import with_environment
from tests.test_end_to_end import ROOT, start_label, write_config
from tests.waiting import PATIENCE_S, wait_until

HOLDS = """
import signal, sys, time
from labeler.errors import Incomplete
from labeler.pipeline import stopping

class Ray:  # takes its time to end
    def is_initialized(self): return False
    def shutdown(self):
        print("ending", flush=True)
        sys.stdin.readline()

stopping.ray = Ray()
try:
    with stopping.stopping():
        print("ready", flush=True)
        while True: time.sleep(1)
except Incomplete as error:
    print(error)
    sys.exit(1)
"""


def holding() -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDS], cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_others_wait_from_the_first_signal_on(number: signal.Signals) -> None:
    process = holding()
    process.send_signal(number)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGTERM)
    assert "a second signal ends this process at once" in process.stderr.readline()
    out, err = process.communicate("go on\n", timeout=PATIENCE_S)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert out == f"stopped by {name}; run the same command again to continue\n"
    assert (process.returncode, err) == (1, "")


def test_the_third_forces_the_end() -> None:
    process = holding()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE_S) == 1
    assert process.stderr.read() == "labeler: forced to end; processes of Ray may be left\n"


def stopped(tmp_path: Path, checkpoint: Path, when: str, numbers: Sequence[signal.Signals]) -> None:
    """Start a job with an environment of its own, stop it, and see that nothing of it is left."""
    mark = f"LABELER_TEST_STOP={tmp_path}"
    write_tars(tmp_path / "in", shards=3, images=16)
    config = write_config(tmp_path / "c.yaml", str(tmp_path / "in"), str(tmp_path / "out"), checkpoint)
    process = start_label(config, env=dict([mark.split("=")]))
    if when == "labeling":
        wait_until(lambda: list((tmp_path / "out" / "labels").rglob("*.parquet")) or process.poll() is not None)
    else:
        wait_until(lambda: len(with_environment(mark)) > 1 or process.poll() is not None)
    for number in numbers:
        process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, err
    assert err.splitlines()[-1].endswith("run the same command again to continue")
    assert "Traceback" not in err
    wait_until(lambda: not set(with_environment(mark)) - {os.getpid()})


def test_a_job_that_is_stopped_while_ray_starts_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    stopped(tmp_path, checkpoint, "starting", [signal.SIGTERM])


@pytest.mark.slow
def test_a_job_that_is_stopped_twice_while_it_labels_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    stopped(tmp_path, checkpoint, "labeling", [signal.SIGINT, signal.SIGINT])


@pytest.mark.slow
def test_a_job_whose_terminal_goes_away_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    stopped(tmp_path, checkpoint, "labeling", [signal.SIGHUP])

"""Fixtures that many tests share: one small checkpoint, one local Ray. Marks for what a file needs."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before ray is imported: token auth is on by default
os.environ.setdefault("RAY_enable_worker_prestart", "0")  # a third of what starting Ray costs, for short jobs in vain
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.certificates import certificate
from tests.http_server import web
from tests.needs import needs_of
from tests.s3_server import bucket, proxy, s3_server, tls_proxy

# Fixtures for everybody.
__all__ = ["bucket", "certificate", "proxy", "s3_server", "tls_proxy", "web"]

# A shell lets what it starts in the background ignore Ctrl-C, `nohup` SIGHUP, and children inherit that: tests that
# send them would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# An example may take as long as the machine needs; pytest ends what hangs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

NAMES = ["cat", "dog", "traffic light", "red circle", "blue square", "bus"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for need in needs_of(item.path.stem):
            item.add_marker(need)
            if need == "ray":  # what a later Ray removes
                item.add_marker(pytest.mark.filterwarnings("error::ray.util.annotations.RayDeprecationWarning"))


def pytest_configure() -> None:
    """What is refused stays one line on a slow machine, too: no step of a start is printed beside it."""
    from labeler.pipeline import startup

    startup.SAY_AFTER_S = 60.0


def pytest_collection_finish() -> None:
    """A full garbage collection goes through all that thousands of tests are made of, half a second: leave it out."""
    gc.freeze()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MM-Grounding-DINO with every parameter drawn at random."""
    from labeler.detectors.grounding_dino.scratch import create_checkpoint

    words = sorted({word for name in NAMES for word in name.split()})
    return create_checkpoint(tmp_path_factory.mktemp("checkpoint"), words=words, redraw=True)


@pytest.fixture(scope="session")
def mm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, for the vocabulary of `detector_parts`."""
    from labeler.detectors.grounding_dino.scratch import create_checkpoint
    from tests.detector_parts import WORDS

    return create_checkpoint(tmp_path_factory.mktemp("mm"), words=WORDS, redraw=True)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray on this machine for all tests that call the pipeline in process."""
    import logging

    import ray
    import ray.data  # its log has handlers from here on

    from labeler.pipeline.connection import _quiet_logs, on_loopback

    ray.shutdown()  # whatever a test before may have started
    with on_loopback():  # as the Ray that a job starts
        ray.init(address="local", num_cpus=3, object_store_memory=300 * 2**20, include_dashboard=False,
                 log_to_driver=False, logging_level=logging.WARNING)  # fmt: skip
    _quiet_logs()  # whichever test's output the handlers were bound to when ray was first imported
    yield
    ray.shutdown()


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """A run whose ground truth is its own boxes, see `evaluation_runs`."""
    from tests.evaluation_runs import UNITS, write_run

    return write_run(tmp_path / "run", UNITS)


@pytest.fixture
def truth(run_uri: str, tmp_path: Path) -> dict[str, Any]:
    """The annotations of that run."""
    from tests.evaluation_runs import truth_of

    return truth_of(run_uri, tmp_path)

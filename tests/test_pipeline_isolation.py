"""Labeling in a child process, and finding the image that kills it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import LabelerError, StorageError
from labeler.labeling.recipe import LabelerRecipe
from labeler.labels.detections import Detections
from labeler.machine import memory_in_use
from labeler.pipeline.isolation import Isolated, label_isolated
from labeler.pipeline.node_memory import MemoryLimits
from labeler.pipeline.worker import Unlabeled, WorkerSettings, label_items, make_labeler
from labeler.shards import Item
from tests.inputs import image_bytes
from tests.mask_parts import Filling
from tests.stub_detector import MakeStub, Raises, StubDetector
from tests.waiting import PATIENCE_S, wait_until

POISON = 77
HUNGER = 800 * 2**20  # bytes, beside 200 MB of a process with a stub


@dataclass(frozen=True)
class CannotStart:
    """A detector whose process dies while it is made, or which says why it cannot be."""

    dies: bool

    def __call__(self) -> StubDetector:
        if self.dies:
            os._exit(3)
        raise LabelerError("the checkpoint is gone")


class HungryDetector(StubDetector):
    """Holds `HUNGER` bytes until it is killed at images of a crashing width."""

    def detect_prepared(self, batch: Sequence[Any]) -> list[Detections | str]:
        if any(pixels.shape[1] == POISON for pixels in batch):
            held = np.ones(HUNGER, np.uint8)
            time.sleep(PATIENCE_S)
            assert held.all()
        return super().detect_prepared(batch)


class BadSegmenter(Filling):
    """Raise at images of a crashing width, or at all with `always`."""

    always = False

    def sketch(self, image: Any, detections: Detections) -> Any:
        if self.always or image[1] == POISON:
            raise MemoryError
        return super().sketch(image, detections)


class BrokenSegmenter(BadSegmenter):
    always = True


@dataclass(frozen=True)
class NeverReady:
    """A detector that hangs while it is made; `log` gets a line with the process id each time."""

    log: str

    def __call__(self) -> StubDetector:
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")
        time.sleep(600)
        raise AssertionError("nobody waits for that long")


class LateLook(Isolated):
    """Look at its limit when the child has started to make the detector: how soon that is depends on the machine."""

    log: Path
    heard = 0

    def _hear(self, deadline: float) -> Any:
        self.heard += 1
        if self.heard % 2:  # the process is there
            return super()._hear(time.monotonic() + PATIENCE_S)
        wait_until(lambda: self.log.exists() and self.log.read_text().count("\n") == self.heard // 2)
        return super()._hear(deadline)


def settings(make: object, segmenter: object = None) -> WorkerSettings:
    recipe = LabelerRecipe(make, segmenter, max_pixels=10**6)  # type: ignore[arg-type]
    return WorkerSettings("unused", recipe, {}, ("tag",), 300)


def items(poison: set[int], count: int = 8) -> list[Item]:
    def one(index: int) -> Item:
        data = image_bytes(index, width=POISON if index in poison else 40)
        return Item(f"{index}.png", index, f"u#{index}", 0, len(data), data, None, {"tag": f"t{index}"})

    return [one(index) for index in range(count)]


def python_path() -> dict[str, str]:
    """The environment of a Python that imports what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def child() -> Iterator[Isolated]:
    with Isolated(settings(MakeStub(die_on_width=POISON))) as isolated:
        yield isolated


def test_innocent_images_are_labeled_as_anywhere(child: Isolated) -> None:
    rows, seconds = label_isolated("000003", items(set()), ("tag",), child)
    assert [row.index for row in rows] == list(range(8))
    assert {row.status for row in rows} == {"labeled"}
    assert rows[3].kept == {"tag": "t3"}
    assert seconds.decode_s > 0
    assert child.description["engine"] == "stub"
    assert child.description["jpeg_decoder"].startswith("pillow "), "no image is blamed for another decoder"


def test_exactly_the_images_that_kill_are_quarantined(child: Isolated) -> None:
    rows, _ = label_isolated("000003", items({0, 2}, 3), ("tag",), child)
    assert [row.index for row in rows] == list(range(3))
    assert [row.index for row in rows if row.status == "quarantined"] == [0, 2]
    assert [row.index for row in rows if row.status == "labeled"] == [1]
    for row in rows:
        assert row.digest
        if row.status == "quarantined":
            assert (row.width, row.kept) == (None, {"tag": f"t{row.index}"})
            assert "crashed its process 2 times when labeled alone (exit code 1)" in str(row.error)


def test_an_image_that_hangs_is_quarantined_like_one_that_kills() -> None:
    """Alone, so that nothing has to be done within the second, however busy the machine is."""
    impatient = replace(settings(MakeStub(hang_on_width=POISON)), stall_timeout_s=1.0)
    with Isolated(impatient) as child:
        rows, _ = label_isolated("000003", items({0}, 1), ("tag",), child)
    assert [row.status for row in rows] == ["quarantined"]
    assert "stalled for 1 s" in str(rows[0].error)


def test_one_death_alone_blames_nobody(tmp_path: Path) -> None:
    """As when the machine runs out of memory for a moment, or someone kills the process."""
    with Isolated(settings(MakeStub(die_once=str(tmp_path / "died")))) as child:
        rows, _ = label_isolated("000000", items(set(), 1), (), child)
    assert (tmp_path / "died").exists()
    assert [row.status for row in rows] == ["labeled"]


def test_a_child_killed_from_outside_is_started_again_and_blames_nobody(child: Isolated) -> None:
    rows, _ = label_isolated("000000", items(set(), 2), (), child)
    assert child._child is not None
    child._child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child._child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
    again, _ = label_isolated("000000", items(set(), 2), (), child)
    assert [row.status for row in again] == [row.status for row in rows] == ["labeled"] * 2


@pytest.mark.slow
def test_a_detector_that_cannot_be_made_is_an_error_and_no_image_s_fault() -> None:
    with Isolated(settings(CannotStart(dies=True))) as child, pytest.raises(LabelerError, match="exit code 3"):
        label_isolated("000000", items(set(), 2), (), child)
    with Isolated(settings(CannotStart(dies=False))) as child, pytest.raises(LabelerError, match="checkpoint is gone"):
        label_isolated("000000", items(set(), 2), (), child)


def test_the_child_ends_with_its_parent(child: Isolated) -> None:
    label_isolated("000000", items(set(), 1), (), child)
    process = child._child
    assert process is not None
    assert process.poll() is None
    child._stop()
    assert process.poll() == 0


def test_exactly_the_images_that_raise_have_a_reason_and_all_others_are_labeled() -> None:
    with Isolated(settings(MakeStub(raise_on_width=POISON))) as child:
        rows, _ = label_isolated("000003", items({0, 3}, 5), ("tag",), child)
    assert [row.index for row in rows] == list(range(5))
    assert [row.status for row in rows] == ["detect_error", "labeled", "labeled", "detect_error", "labeled"]
    for guilty in (rows[0], rows[3]):
        assert guilty.error == "RuntimeError: no such kernel at 0x..."
        assert guilty.digest
        assert (guilty.width, guilty.height, guilty.orientation) == (POISON, rows[1].height, 1)
        assert guilty.phash is not None
        assert guilty.kept == {"tag": f"t{guilty.index}"}


@pytest.mark.slow
def test_a_unit_of_nothing_but_an_image_that_raises_has_its_row() -> None:
    """Where nothing else is labeled, a plain image shows that the child can."""
    with Isolated(settings(MakeStub(), BadSegmenter)) as child:
        rows, _ = label_isolated("000003", items({0}, 1), (), child)
    assert [(row.status, row.error) for row in rows] == [("detect_error", "MemoryError")]


@pytest.mark.parametrize("broken", ["detector", pytest.param("segmenter", marks=pytest.mark.slow)])
def test_a_machine_where_every_image_raises_blames_none(broken: str) -> None:
    always = settings(Raises(RuntimeError("no kernel image is available")))
    if broken == "segmenter":
        always = settings(MakeStub(), BrokenSegmenter)
    with (
        Isolated(always) as child,
        pytest.raises(LabelerError, match="so no image is blamed"),
    ):
        label_isolated("000000", items(set(), 2), (), child)


@pytest.mark.slow
def test_what_an_image_damages_is_not_held_against_the_next() -> None:
    with Isolated(settings(Raises(RuntimeError("damaged"), POISON))) as child:
        rows, _ = label_isolated("000000", items({0}, 3), (), child)
    assert [row.status for row in rows] == ["detect_error", "labeled", "labeled"]


@pytest.mark.parametrize("error", [StorageError("access denied"), OSError(errno.ENOSPC, "no space left on device")])
def test_errors_of_storage_and_of_the_machine_never_become_rows(error: Exception) -> None:
    with Isolated(settings(Raises(error, POISON))) as child, pytest.raises(LabelerError) as raised:
        label_isolated("000000", items({0}, 1), (), child)
    assert type(raised.value) is LabelerError
    assert str(error) in str(raised.value)


def test_a_reason_is_one_line_that_is_the_same_each_time() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch calls it."""

    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.1 GiB of which 1.2 GiB is free. Process 4711"
    labeler = make_labeler(settings(Raises(OutOfMemoryError(said))))
    with pytest.raises(Unlabeled) as raised:
        label_items(labeler, "000000", items(set(), 1), ())
    assert str(raised.value) == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched on Linux only")
def test_an_image_that_takes_the_node_s_memory_is_quarantined_before_ray_ends_its_task() -> None:
    own_share = 600 * 2**20 / max(total for _, total in memory_in_use())
    with Isolated(settings(HungryDetector), memory=MemoryLimits(0.0, own_share)) as child:
        rows, _ = label_isolated("000003", items({1}, 2), (), child)
    assert [row.status for row in rows] == ["labeled", "quarantined"]
    assert "of its node's memory, which ran out" in str(rows[1].error)


def test_a_node_whose_memory_others_hold_blames_nobody() -> None:
    with Isolated(settings(MakeStub(seconds=0.5)), memory=MemoryLimits(0.0, 0.9)) as child:
        rows, _ = label_isolated("000003", items(set(), 2), (), child)
    assert [row.status for row in rows] == ["labeled"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched on Linux only")
def test_memory_that_is_full_before_anything_is_labeled_blames_nobody() -> None:
    with (
        Isolated(settings(MakeStub()), memory=MemoryLimits(0.0, 0.0)) as child,
        pytest.raises(LabelerError, match="full before"),
    ):
        label_isolated("000003", items(set(), 1), (), child)


@pytest.mark.slow
def test_a_child_that_hangs_while_it_loads_is_a_failed_start(tmp_path: Path) -> None:
    LateLook.log = log = tmp_path / "started"
    hanging, expected = settings(NeverReady(str(log))), "cannot start: not ready after 1 s"
    with LateLook(hanging, start_limit_s=1.0) as child, pytest.raises(LabelerError, match=expected):
        label_isolated("000000", items(set(), 1), (), child)
    pids = [int(line) for line in log.read_text().split()]
    assert len(pids) == 2, "it is tried again"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


_PARENT = """
import sys
from labeler.pipeline.isolation import Isolated
from tests.test_pipeline_isolation import NeverReady, items, settings
with Isolated(settings(NeverReady(sys.argv[1]))) as child:
    child.label("000000", items(set(), 1))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_child_that_hangs_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "started"
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(log)], env=python_path()) as parent:
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
        pid = int(log.read_text())
        parent.kill()
    try:
        wait_until(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)

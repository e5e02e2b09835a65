from __future__ import annotations

from pathlib import Path

import pytest

from labeler.errors import Refused
from labeler.pipeline import preflight as module
from labeler.pipeline.preflight import preflight

pytestmark = pytest.mark.usefixtures("local_ray")


def run(output: Path, source: Path) -> None:
    preflight(str(output), str(source), single_writer=False, timeout_s=120)


def test_good_storage_passes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(b"x")
    run(tmp_path / "a" / "b" / "out", tmp_path / "in.tar")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["in.tar"]


def test_an_input_that_a_worker_does_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"in\.tar is not there on node"):
        run(tmp_path / "out", tmp_path / "in.tar")


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(b"x")
    with pytest.raises(Refused, match="/proc/out"):
        run(Path("/proc/out"), tmp_path / "in.tar")


def test_an_output_on_a_disk_of_its_own_node_is_refused(tmp_path: Path) -> None:
    """A node that does not share the driver's disk does not see the driver's mark."""
    problem = module._probe(str(tmp_path / "out"), str(tmp_path), False, str(tmp_path / "mark-that-is-elsewhere"))
    assert problem is not None
    assert "is another disk on node" in problem

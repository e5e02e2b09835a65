from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from labeler import storage
from labeler.errors import Refused
from labeler.pipeline import preflight as module
from labeler.pipeline.capacity import CapacityWait
from labeler.pipeline.preflight import preflight, readable_uri
from labeler.runs.plan import PlannedShard
from labeler.shards import Member, Shard

pytestmark = pytest.mark.usefixtures("local_ray")


def run(output: Path, source: Path) -> None:
    preflight(str(output), str(source), single_writer=False, patience=CapacityWait(120, Console(quiet=True)))


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
    problem = module._probe(
        str(tmp_path / "out"), str(tmp_path), False, str(tmp_path / "mark-that-is-elsewhere"), storage.NO_S3_RULES
    )
    assert problem is not None
    assert "is another disk on node" in problem


def planned(*members: Path) -> list[PlannedShard]:
    frozen = tuple(Member(path.name, str(path), 1, None) for path in members)
    return [PlannedShard(Shard("000000", "in", None, None, "images", members=frozen), len(members))]


def test_images_that_have_vanished_do_not_stand_for_the_input(tmp_path: Path) -> None:
    """They will be rows with their reason; one alone kept a run from ever going on."""
    files = [tmp_path / f"{number}.png" for number in range(25)]
    files[5].write_bytes(b"x")
    assert readable_uri(planned(*files), str(tmp_path)) == str(files[5])
    assert readable_uri(planned(*files[:3]), str(tmp_path)) is None
    preflight(str(tmp_path / "out"), None, single_writer=False, patience=CapacityWait(120, Console(quiet=True)))
    files[5].unlink()
    with pytest.raises(Refused, match=r"0\.png is not there, nor are 19 others that were planned"):
        readable_uri(planned(*files), str(tmp_path))


def test_a_tar_is_looked_for_itself(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(b"x")
    work = [PlannedShard(Shard(name, str(tmp_path / name), 1, None, "webdataset"), None) for name in ("a.tar", "b.tar")]
    assert readable_uri(work, str(tmp_path)) == str(tmp_path / "b.tar")

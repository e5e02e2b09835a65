from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from labeler import __version__
from labeler.config import make_config
from labeler.errors import Refused
from labeler.labeling.recipe import LabelerRecipe, labeler_recipe
from labeler.labeling.resolve import resolve_job
from labeler.pipeline import preflight as module
from labeler.pipeline.capacity import CapacityWait
from labeler.pipeline.cluster import Workers
from labeler.pipeline.preflight import Checks, nodes_to_try, preflight, preflight_of_boxes, readable_uri
from labeler.runs.plan import PlannedShard
from labeler.shards import Member, Shard
from tests.segmenter_parts import broken_sam, tiny_sam
from tests.waiting import PATIENCE_S, RefusesOnce, wait_until

pytestmark = pytest.mark.usefixtures("local_ray")


def run(output: Path, source: Path | None) -> None:
    quiet = Console(quiet=True)
    preflight(Checks(str(output), source and str(source)), CapacityWait(120, quiet), quiet)


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
    checks = Checks(str(tmp_path / "out"), str(tmp_path))
    answer = module._probe(checks, __version__, str(tmp_path / "mark-that-is-elsewhere"))
    assert "is not shared: node" in answer.problem


def test_another_labeler_on_a_node_is_refused_and_other_packages_are_named(tmp_path: Path) -> None:
    checks = Checks(str(tmp_path / "out"), None, versions={"torch": "1.0", "ray": version("ray")})
    answer = module._probe(checks, "0.0.1", None)
    assert f"labeler {__version__} is installed on node" in answer.problem
    said, wide = io.StringIO(), CapacityWait(120, Console(quiet=True))
    preflight(checks, wide, Console(file=said, width=1000))
    (line,) = said.getvalue().splitlines()
    assert re.fullmatch(r"warning: node \S+ has torch \S+ \(here 1\.0\); rows of its workers may differ a little", line)


def node(name: str, alive: bool = True, labels: Mapping[str, str] | None = None, **resources: float) -> dict[str, Any]:
    own = {f"node:{name}": 1.0, "memory": len(name) * 1e9, "object_store_memory": 1.0 + ord(name[-1])}
    labels = {"ray.io/node-id": name, **(labels or {})}
    return {"NodeID": name, "Alive": alive, "Resources": {**own, **resources}, "Labels": labels}


def test_a_node_of_each_kind_is_tried_and_the_drivers_own_only_where_no_other_is_of_its_kind() -> None:
    def tried(*nodes: dict[str, Any], everywhere: bool = False) -> list[str]:
        return [each["NodeID"] for each in nodes_to_try(nodes, everywhere=everywhere, here="head")]

    head, a, b = node("head", CPU=4.0), node("a", CPU=4.0), node("b", CPU=4.0)
    gpu, spot = node("gpu", CPU=8.0, GPU=1.0), node("spot", CPU=8.0, GPU=1.0, labels={"market": "spot"})
    assert tried(head, a, b, gpu, spot, node("c", CPU=4.0)) == ["a", "gpu", "spot"]
    assert tried(head, gpu) == ["gpu", "head"]
    assert tried(head) == ["head"]
    assert tried(node("head", CPU=0.0), gpu) == ["gpu"]  # it runs nothing of the job
    assert tried(node("head", CPU=0.0)) == ["head"]
    assert tried(head, node("a", CPU=4.0, alive=False), b) == ["b"]
    assert tried(head, a, b, gpu, everywhere=True) == ["head", "a", "b", "gpu"]


def planned(*members: Path) -> list[PlannedShard]:
    frozen = tuple(Member(path.name, str(path), 1, None) for path in members)
    return [PlannedShard(Shard("000000", "in", None, None, "images", members=frozen), len(members))]


def test_images_that_have_vanished_do_not_stand_for_the_input(tmp_path: Path) -> None:
    """They will be rows with their reason; a single one kept a run from resuming."""
    files = [tmp_path / f"{number}.png" for number in range(25)]
    files[5].write_bytes(b"x")
    assert readable_uri(planned(*files), str(tmp_path)) == str(files[5])
    assert readable_uri(planned(*files[:3]), str(tmp_path)) is None
    run(tmp_path / "out", None)
    files[5].unlink()
    with pytest.raises(Refused, match=r"0\.png and 19 other planned objects are missing"):
        readable_uri(planned(*files), str(tmp_path))


def test_a_tar_is_looked_for_itself(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(b"x")
    work = [PlannedShard(Shard(name, str(tmp_path / name), 1, None, "webdataset"), None) for name in ("a.tar", "b.tar")]
    assert readable_uri(work, str(tmp_path)) == str(tmp_path / "b.tar")


@pytest.mark.slow
def test_a_model_for_boxes_is_tried_where_a_worker_will_be(tmp_path: Path, checkpoint: Path) -> None:
    values = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "vocabulary": ["cat"]}
    values |= {"model": {"name": str(checkpoint)}}
    workers, patience = Workers(count=1, gpus=0.0, cpus=1.0), CapacityWait(PATIENCE_S, Console(quiet=True))
    for folder in (tiny_sam("sam"), broken_sam(tmp_path / "broken", "config")):
        recipe = labeler_recipe(resolve_job(make_config({**values, "masks": {"model": str(folder)}}))).of_boxes
        assert recipe is not None
        if folder == tmp_path / "broken":
            with pytest.raises(Refused, match=r"masks\.model: checkpoint .* does not run"):
                preflight_of_boxes(recipe, workers, patience)
        else:
            preflight_of_boxes(recipe, workers, patience)


@dataclass
class Marking(CapacityWait):
    """Writes a file as soon as the wait is over."""

    over: Path

    def __post_init__(self) -> None:
        super().__init__(30, Console(quiet=True))

    def wait(self, task: Any, what: str) -> Any:
        found = super().wait(task, what)
        self.over.touch()
        return found


def loading(until: Path) -> LabelerRecipe:
    return LabelerRecipe(None, RefusesOnce(until))


def test_loading_the_model_for_boxes_is_not_waiting_for_room(tmp_path: Path) -> None:
    over = tmp_path / "there is room"
    with pytest.raises(Refused, match="the model was loaded"):
        preflight_of_boxes(loading(over), Workers(count=1, gpus=0.0, cpus=1.0), Marking(over))


@pytest.mark.slow
def test_a_model_for_boxes_that_is_late_and_one_without_room_are_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIAL_S", 0.5)
    never, patient = loading(tmp_path / "never"), CapacityWait(PATIENCE_S, Console(quiet=True))
    with pytest.raises(Refused, match=r"not loaded and tried within 0\.5 s on a worker of 3 CPU"):
        preflight_of_boxes(never, Workers(count=1, gpus=0.0, cpus=3.0), patient)
    wait_until(lambda: ray.available_resources().get("CPU") == 3)  # the process that still loads was ended
    with pytest.raises(Refused, match=r"\(ray\.start_timeout_s\) for room for a worker of 99 CPU to try .* add nodes"):
        preflight_of_boxes(never, Workers(count=1, gpus=0.0, cpus=99.0), CapacityWait(0.5, Console(quiet=True)))

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from ray.data import DataContext

from labeler.config import RayConfig
from labeler.errors import Refused
from labeler.machine import decode_bytes
from labeler.pipeline.cluster import Workers, limit_waiting, require_capacity, size_workers
from labeler.pipeline.nodes import Placement, threads_on

BIG = {"CPU": 16.0, "GPU": 2.0}


def test_a_cluster_that_has_no_node_yet_gets_one_modest_worker() -> None:
    assert size_workers(RayConfig(), []) == Workers(1, 0.0, 1.0, most=1)


def test_a_pool_begins_with_all_there_is_room_for_and_follows_a_cluster_that_may_grow() -> None:
    def pool(**settings: object) -> tuple[int, int, float]:
        config = RayConfig.model_validate(settings)
        workers = size_workers(config, [{"CPU": 8.0, "GPU": 1.0}] * 3, may_grow=True)
        assert workers.readers >= 2 * min(workers.most or math.inf, 4 * workers.count)
        strategy = workers.pool(3)
        return strategy.min_size, strategy.initial_size, strategy.max_size

    assert pool() == (1, 3, math.inf)
    assert pool(max_workers=20) == (1, 3, 20)
    assert pool(max_workers=2) == (1, 2, 2)
    assert pool(workers=8) == (1, 8, 8), "more than there are yet"
    assert pool(workers=8, max_workers=4) == (1, 4, 4)


@pytest.mark.parametrize(
    ("node", "gpus", "usable", "threads"),
    [
        ({"CPU": 64.0, "GPU": 1.0}, 1.0, 64, 63),
        ({"CPU": 64.0, "GPU": 8.0}, 1.0, 64, 7),
        ({"CPU": 4.0, "GPU": 1.0}, 1.0, 64, 3),
        ({"CPU": 64.0, "GPU": 1.0}, 1.0, 4, 3),
        ({"CPU": 9.0, "GPU": 1.0}, 0.5, 9, 4),
        ({"CPU": 4.0, "GPU": 4.0}, 1.0, 4, 1),
        ({"CPU": 16.0, "GPU": 4.0}, 2.0, 16, 7),
        ({"CPU": 8.0}, 0.0, 8, 7),
        ({"CPU": 16.0}, 0.0, 16, 7),  # two such workers have room there
        ({}, 1.0, 4, 3),
    ],
)
def test_a_workers_threads_are_its_share_of_its_own_node(
    node: dict[str, float], gpus: float, usable: float, threads: int
) -> None:
    assert threads_on(node, gpus, 1.0 if gpus else 7.0, usable) == threads


def test_a_place_is_a_kind_of_gpu_and_labels_by_rays_rules() -> None:
    node = {"Resources": {"GPU": 1.0, "accelerator_type:L4": 1.0}, "Labels": {"market": "spot", "zone": "a"}}
    assert Placement().allows(node)
    assert Placement("L4").allows(node)
    assert not Placement("H100").allows(node)
    for allowed in ("spot", "!reserved", "in(spot, reserved)", "!in(reserved,other)"):
        assert Placement("L4", (("market", allowed),)).allows(node), allowed
    for refused in ("reserved", "!spot", "in(reserved, other)", "!in(spot, other)"):
        assert not Placement(labels=(("zone", "a"), ("market", refused))).allows(node), refused
    assert not Placement(labels=(("absent", "x"),)).allows(node)
    assert Placement(labels=(("absent", "!x"),)).allows(node)
    config = RayConfig(accelerator_type="L4", label_selector={"a": "b"}, read_label_selector={"c": "!d"})
    workers = size_workers(config, [BIG])
    assert workers.options == {
        "num_cpus": 1.0, "num_gpus": 1.0, "accelerator_type": "L4", "label_selector": {"a": "b"}
    }  # fmt: skip
    assert workers.read_place.options == {"label_selector": {"c": "!d"}}
    assert str(workers) == "2 workers (1 GPU, 1 CPU each on L4 where a=b)"


@pytest.mark.parametrize("condition", ["", "in()", "not(a)", "a b", "!!a", "in(a", "-a"])
def test_a_label_selector_that_ray_would_not_take_is_refused(condition: str) -> None:
    with pytest.raises(ValidationError, match=r"label_selector"):
        RayConfig(label_selector={"market": condition})


def test_memory_for_decoding_grows_with_the_threads_up_to_a_share_of_the_node(tmp_path: Path) -> None:
    assert decode_bytes(tmp_path, threads=8) == 2 << 30
    assert decode_bytes(tmp_path, threads=64) == 16 << 30
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: 1000 kB\n")
    assert decode_bytes(tmp_path, threads=64) == 8 << 30


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 2.0}], {}, Workers(1, 0.0, 1.0)),
        ([{"CPU": 8.0}] * 3, {}, Workers(3, 0.0, 7.0)),
        ([{"CPU": 1.0}], {}, Workers(1, 0.0, 0.25)),
        ([{"CPU": 2.0}], {"workers": 4}, Workers(4, 0.0, 0.25)),
        ([{"CPU": 8.0}], {"cpus_per_worker": 3}, Workers(1, 0.0, 3.0)),
        ([BIG, {"CPU": 4.0}], {}, Workers(2, 1.0, 1.0)),
        ([BIG, {"CPU": 4.0, "GPU": 4.0}], {}, Workers(6, 1.0, 0.75)),
        ([BIG], {"gpus_per_worker": 0.5}, Workers(4, 0.5, 1.0)),
        ([BIG], {"gpus_per_worker": 0}, Workers(1, 0.0, 15.0)),
        ([{"CPU": 64.0, "GPU": 1.0}], {}, Workers(1, 1.0, 1.0)),
        ([{"CPU": 4.0, "GPU": 4.0}], {}, Workers(4, 1.0, 0.75)),
        ([{"CPU": 8.0, "GPU": 1.0}] * 4, {"gpus_per_worker": 0.6}, Workers(4, 0.6, 1.0)),
        ([{"CPU": 8.0, "GPU": 1.0}] * 2, {"gpus_per_worker": 0.1}, Workers(20, 0.1, 0.7)),
        ([{"CPU": 8.0, "GPU": 3.0}] * 4, {"gpus_per_worker": 2}, Workers(4, 2.0, 1.0)),
        ([BIG] * 4, {"max_workers": 3}, Workers(3, 1.0, 1.0)),
    ],
)
def test_workers_fit_the_nodes_and_leave_readers_room(
    nodes: list[dict[str, float]], settings: dict[str, float], expected: Workers
) -> None:
    workers = size_workers(RayConfig.model_validate(settings), nodes)
    named = settings.get("cpus_per_worker")
    assert workers == replace(expected, most=expected.count, threads=None if named is None else int(named))
    if "cpus_per_worker" not in settings:
        for node in nodes:
            here = min(
                workers.count, node.get("GPU", 0) // workers.gpus if workers.gpus else workers.count / len(nodes)
            )
            assert node["CPU"] - here * workers.cpus >= 0.25 or node["CPU"] < 2


def test_a_worker_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(Refused, match=r"no node can hold a worker of 1 GPU, 1 CPU, .*1 node of 2 CPU, 0 GPU"):
        require_capacity(Workers(1, 1.0, 1.0), [{"CPU": 2.0}])


def test_a_unit_on_a_cpu_may_take_long_and_capacity_for_gpus_is_waited_for_as_asked() -> None:
    """256 images of a large vocabulary take more than an hour on two cores: given up after half of one, no pass ever
    finished a unit."""
    context = DataContext.get_current()
    limit_waiting(RayConfig(start_timeout_s=600), Workers(2, 1.0, 4.0))
    assert context.execution_no_progress_timeout_s == 600
    limit_waiting(RayConfig(start_timeout_s=600), Workers(2, 0.0, 4.0))
    assert context.execution_no_progress_timeout_s == 86_400

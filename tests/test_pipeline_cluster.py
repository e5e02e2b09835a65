from __future__ import annotations

import pytest
from ray.data import DataContext

from labeler.config import RayConfig
from labeler.errors import Refused
from labeler.pipeline.cluster import Workers, limit_waiting, require_capacity, size_workers

BIG = {"CPU": 16.0, "GPU": 2.0}


def test_a_cluster_that_has_no_node_yet_gets_one_modest_worker() -> None:
    assert size_workers(RayConfig(), []) == Workers(1, 0.0, 1.0)


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 2.0}], {}, Workers(1, 0.0, 1.0)),
        ([{"CPU": 8.0}] * 3, {}, Workers(3, 0.0, 7.0)),
        ([{"CPU": 1.0}], {}, Workers(1, 0.0, 0.25)),
        ([{"CPU": 2.0}], {"workers": 4}, Workers(4, 0.0, 0.25)),
        ([{"CPU": 8.0}], {"cpus_per_worker": 3}, Workers(1, 0.0, 3.0)),
        ([BIG, {"CPU": 4.0}], {}, Workers(2, 1.0, 7.0)),
        ([BIG], {"gpus_per_worker": 0.5}, Workers(4, 0.5, 3.0)),
        ([BIG], {"gpus_per_worker": 0}, Workers(1, 0.0, 15.0)),
        ([{"CPU": 64.0, "GPU": 1.0}], {}, Workers(1, 1.0, 8.0)),
        ([{"CPU": 4.0, "GPU": 4.0}], {}, Workers(4, 1.0, 0.75)),
    ],
)
def test_workers_fit_the_nodes_and_leave_readers_room(
    nodes: list[dict[str, float]], settings: dict[str, float], expected: Workers
) -> None:
    workers = size_workers(RayConfig.model_validate(settings), nodes)
    assert workers == expected
    assert workers.threads >= 1
    if "cpus_per_worker" not in settings:
        for node in nodes:
            here = min(workers.count, node.get("GPU", 0) / workers.gpus if workers.gpus else workers.count / len(nodes))
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

"""The nodes of a Ray cluster: which of them a job may use, what one leaves to a worker, which are taken away."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state
from ray.experimental import internal_kv

from labeler import plain_json
from labeler.config import RayConfig
from labeler.machine import available_cpus

_STATUS_KEY = b"__autoscaling_status"  # where Ray's monitor reports the kinds of nodes it knows
_NODE_GROUP = "ray.io/node-group"  # a label of nodes that KubeRay or a cloud's launcher has started
_OF_NO_KIND = "node_"  # a node that joined by hand is a kind of its own
_CONDITION = re.compile(r"(!?)(?:in\((.*)\)|(.*))")


@dataclass(frozen=True)
class Placement:
    """The nodes that a worker may run on.

    Attributes:
        accelerator: their kind of GPU, in Ray's words ("L4"); None: any.
        labels: conditions on their labels, as Ray has them: `value`, `!value`, `in(a, b)`, `!in(a, b)`.
    """

    accelerator: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(config: RayConfig) -> Placement:
        """Return where a worker may run."""
        return Placement(config.accelerator_type, tuple(config.label_selector.items()))

    @staticmethod
    def of_readers(config: RayConfig) -> Placement:
        """Return where the tasks that read for the workers may run."""
        return Placement(labels=tuple(config.read_label_selector.items()))

    @property
    def options(self) -> dict[str, Any]:
        """Return what Ray takes for it; empty for any node."""
        named = {"accelerator_type": self.accelerator, "label_selector": dict(self.labels)}
        return {name: value for name, value in named.items() if value}

    def allows(self, node: Mapping[str, Any]) -> bool:
        """Return whether a node, as `ray.nodes()` describes it, may be used."""
        if self.accelerator and not node["Resources"].get(f"accelerator_type:{self.accelerator}"):
            return False
        return all(_meets(node["Labels"].get(name), condition) for name, condition in self.labels)

    def __str__(self) -> str:
        """For a message: ` on L4 with market=spot`; empty for any node."""
        kind = f" on {self.accelerator}" if self.accelerator else ""
        labels = ", ".join(f"{name}={condition}" for name, condition in self.labels)
        return kind + (f" where {labels}" if labels else "")


ANYWHERE = Placement()


def _meets(value: str | None, condition: str) -> bool:
    """Return whether a label's value (None: there is none) meets a condition."""
    found = _CONDITION.fullmatch(condition)
    assert found, "any text is a value"
    negated, several, one = found.groups()
    wanted = {part.strip() for part in several.split(",")} if several is not None else {one}
    return (value in wanted) != bool(negated)


def alive_nodes(place: Placement = ANYWHERE) -> list[dict[str, float]]:
    """Resources of the nodes that may be used, of the cluster as it is now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and place.allows(node)]


def launches_nodes() -> bool:
    """Return whether something adds nodes to this cluster when work waits for them: an autoscaler, as far as Ray knows
    of it.

    Ray's monitor knows kinds of nodes where there is one, and a kind for each node where there is none.
    """
    if any(node["Labels"].get(_NODE_GROUP) for node in ray.nodes()):
        return True
    report = plain_json.parse(internal_kv._internal_kv_get(_STATUS_KEY) or b"{}").get("autoscaler_report") or {}
    kinds = [*(report.get("active_nodes") or {}), *(report.get("pending_launches") or {})]
    return any(not kind.startswith(_OF_NO_KIND) for kind in kinds)


def drains_here() -> bool:
    """In a worker: whether its node is about to be taken away, as far as Ray was told (`ray drain-node`)."""
    try:
        return ray.get_runtime_context().get_node_id() in state.get_draining_nodes()
    except Exception:  # Ray's control process does not answer, which is not a reason to give a unit up
        return False


def threads_here(gpus: float, cpus: float) -> int:
    """In a worker: the CPU threads that its node has for it, for decoding and (without a GPU) for the forward pass.

    They are the node's own cores but one, by the worker's share of the node's GPUs, or by how many such workers the
    node holds.

    Args:
        gpus, cpus: that the worker has reserved.
    """
    me = ray.get_runtime_context().get_node_id()
    resources: Sequence[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["NodeID"] == me]
    return threads_on(resources[0] if resources else {}, gpus, cpus, available_cpus())


def threads_on(node: Mapping[str, float], gpus: float, cpus: float, usable: float) -> int:
    """CPU threads of one worker on a node with these resources, of which this many CPUs can be used; 1 at least."""
    cores = min(node.get("CPU", usable), usable)
    share = gpus / node["GPU"] if gpus and node.get("GPU") else 1 / max(1, math.floor(node.get("CPU", cpus) / cpus))
    return max(1, math.floor((cores - 1) * min(1.0, share)))

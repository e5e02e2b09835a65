"""Check on the nodes that will work, before anything is written, that input, output, packages and weights are there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from labeler import __version__, storage
from labeler.errors import LabelerError, Refused
from labeler.labeling.fingerprint import package_versions
from labeler.labeling.recipe import LabelerRecipe
from labeler.pipeline.capacity import CapacityWait
from labeler.pipeline.cluster import Workers, last_line
from labeler.pipeline.nodes import threads_here
from labeler.prompts import UserModule
from labeler.runs.plan import PlannedShard, with_members
from labeler.shards.neighbors import LOOKED_AT

_TRIAL_S = 1800.0  # for fetching, loading and trying a model, once there is room for it
_NODE_ID = "ray.io/node-id"  # the label that each node has to itself


def readable_uri(work: Sequence[PlannedShard], plan_uri: str) -> str | None:
    """An object of the input that is there, for workers to find; None where the few images that are left are gone.

    An image that has vanished is a row like any other, so one must not stand for all.

    Args:
        plan_uri: of the run that has the plan.

    Raises:
        Refused: none of many is there, or no whole shard that is left.
        StorageError: storage does not answer.
    """
    tried, images, first = 0, True, ""
    for uri, of_images in islice(_objects(work, plan_uri), LOOKED_AT):
        with suppress(storage.Unreadable):
            if storage.head(uri) is not None:
                return uri
        first = uri if not tried else first
        tried, images = tried + 1, images and of_images
    if tried == LOOKED_AT or not images:
        missing = f"and {tried - 1} other planned objects are missing" if tried > 1 else "is missing"
        raise Refused(f"input {storage.redact(first)} {missing}")
    return None


def _objects(work: Sequence[PlannedShard], plan_uri: str) -> Iterator[tuple[str, bool]]:
    """URIs, and whether they are of single images."""
    for planned in work:
        shard = planned.shard
        if shard.format == "images":
            members = shard.members or with_members(shard, plan_uri).members or ()
            yield from ((member.uri, True) for member in members)
        else:
            yield shard.uri, False


@dataclass(frozen=True)
class Checks:
    """Checks to try on a node. Picklable.

    Attributes:
        input: an object of the input; None where there is none left to look for.
        s3: how buckets are read.
        models: finds the job's checkpoints; None where that is not tried.
        versions: of the packages of the driver.
    """

    output: str
    input: str | None
    single_writer: bool = False
    s3: storage.S3Rules = storage.NO_S3_RULES
    models: LabelerRecipe | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def preflight(
    checks: Checks,
    patience: CapacityWait,
    console: Console,
    *,
    holds_worker: Callable[[Mapping[str, Any]], bool] = lambda node: True,
    reads: Callable[[Mapping[str, Any]], bool] = lambda node: True,
) -> None:
    """Try what a job needs on a node of each kind, where it will run; on every node where a path is local, which may
    be another disk there.

    Args:
        patience: for nodes that are slow to answer.
        console: for a warning about packages that differ.
        holds_worker: whether a node, as `ray.nodes()` has it, may hold a worker, and so needs the checkpoints.
        reads: whether one may read for workers.

    Raises:
        Refused: in one line, what cannot be read, written, committed or found, and from where.
    """
    everywhere = storage.is_local(checks.output) or (checks.input is not None and storage.is_local(checks.input))
    used = [node for node in ray.nodes() if holds_worker(node) or reads(node)]
    nodes = nodes_to_try(used, everywhere=everywhere, here=ray.get_runtime_context().get_node_id())
    differing: dict[str, str] = {}
    with _mark_of_driver(checks.output) as mark:
        probes = [
            _start_probe(node["NodeID"], checks if holds_worker(node) else replace(checks, models=None), mark)
            for node in nodes
        ]
        answers = [_answer(probe, patience) for probe in probes]
        if all(answer is None for answer in answers):
            raise Refused("all nodes of the Ray cluster are gone; check `ray status`")
        for answer in filter(None, answers):
            if answer.problem:
                raise Refused(answer.problem)
            if other := _differing(checks.versions, answer.versions):
                differing.setdefault(other, answer.node)
    for other, node in differing.items():
        console.print(
            f"warning: node {node} has {other}; rows of its workers may differ a little",
            markup=False,
            soft_wrap=True,
        )


def nodes_to_try(nodes: Sequence[Mapping[str, Any]], *, everywhere: bool, here: str) -> list[Mapping[str, Any]]:
    """Of nodes as `ray.nodes()` has them those to try things on: one of each kind, or each that is alive.

    A kind is what a node offers and its labels, without what is its own. Nodes that offer no CPU, as a cluster's head
    often does, run nothing of the job, unless there are no others.

    Args:
        here: id of the driver's node, which stands for its kind only where no other does.
    """
    alive = [node for node in nodes if node["Alive"]]
    working = [node for node in alive if node["Resources"].get("CPU")] or alive
    if everywhere:
        return working
    kinds: dict[object, Mapping[str, Any]] = {}
    for node in sorted(working, key=lambda node: node["NodeID"] == here):
        kinds.setdefault(_kind(node), node)
    return list(kinds.values())


def _kind(node: Mapping[str, Any]) -> object:
    own = ("node:", "memory", "object_store_memory")
    offers = {(name, amount) for name, amount in node["Resources"].items() if not name.startswith(own)}
    return frozenset(offers), frozenset(item for item in node.get("Labels", {}).items() if item[0] != _NODE_ID)


@dataclass(frozen=True)
class _Answer:
    """Result of a probe.

    Attributes:
        problem: one line; empty if all is well.
        versions: of the packages there.
    """

    node: str
    problem: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def _answer(probe: Any, patience: CapacityWait) -> _Answer | None:
    """Return the node's answer; None if the node was lost while it was still on the list."""
    try:
        answer: _Answer = patience.wait(probe, "a process of each kind of node to try storage from")
        return answer
    except ray.exceptions.TaskUnschedulableError:
        return None
    except Refused as error:
        if "No module named" not in str(error):
            raise
        raise Refused(
            f"{error}; a node lacks it: install requirements.lock there, and send labeler along by `labeler submit` or "
            "--working-dir"
        ) from None


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """E.g. "torch 2.12.0 (here 2.13.0)"; empty where nothing differs."""
    names = [name for name in ours if theirs.get(name) not in (None, ours[name])]
    return ", ".join(f"{name} {theirs[name]} (here {ours[name]})" for name in names)


def preflight_module(module: UserModule, patience: CapacityWait) -> None:
    """Import a detector of the user's own on a worker, before a GPU is asked for.

    Args:
        patience: for a node that is slow to answer.

    Raises:
        Refused: in one line, why it cannot be imported there, and how to ship it.
    """
    probe = ray.remote(_probe_module).options(num_cpus=0, max_retries=2).remote(module)
    try:
        problem = patience.wait(probe, "a process to import model.family in")
    except Refused as error:
        raise Refused(f"model.family {module.name} cannot be imported on a worker: {error}") from None
    if problem is not None:
        raise Refused(problem)


def preflight_of_boxes(recipe: LabelerRecipe, workers: Workers, patience: CapacityWait) -> None:
    """Load the model that looks at boxes where a worker will, and try it on one image, before anything is written.

    Fetching and loading have a time of their own, from when there is room: they do not use up that of `patience`.

    Args:
        recipe: with that model alone.
        workers: whose place the try takes.
        patience: for room for a worker.

    Raises:
        Refused: if no worker finds room in time, or if the model does not run there.
    """
    trial = ray.remote(_Trial).options(**workers.options, max_restarts=2, max_task_retries=2).remote()
    where = f"a worker of {workers.each}{workers.place}"
    try:
        patience.wait(trial.has_room.remote(), f"room for {where} to try the model for boxes on")
        problem = ray.get(trial.run.remote(recipe, workers), timeout=_TRIAL_S)
    except ray.exceptions.GetTimeoutError:
        raise Refused(
            f"the model for boxes was not loaded and tried within {_TRIAL_S:g} s on {where}; check how fast its node "
            "reads the checkpoint, or put it on a disk there"
        ) from None
    except ray.exceptions.RayError as error:
        raise Refused(f"the model for boxes could not be tried on {where}: {last_line(error)}") from None
    finally:
        ray.kill(trial)  # its process ends, and gives the memory back
    if problem is not None:
        raise Refused(problem)


class _Trial:
    """On a worker: it takes its place."""

    def has_room(self) -> None:
        """Answer, which it can do once it has its place."""

    def run(self, recipe: LabelerRecipe, workers: Workers) -> str | None:
        """Return one line about what is wrong, or None."""
        try:
            recipe.with_threads(workers.threads or threads_here(workers.gpus, workers.cpus))()
        except LabelerError as error:
            return str(error)
        return None


def _probe_module(module: UserModule) -> str | None:
    """On a worker: one line about what is wrong, or None."""
    try:
        module.family()
    except LabelerError as error:
        return str(error)
    return None


@contextmanager
def _mark_of_driver(output_uri: str) -> Iterator[str | None]:
    """A file beside a local output that workers must see if they share the driver's disk; None for object storage."""
    folder = Path(output_uri.removeprefix("file://"))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    mark = folder / f".labeler-probe-{uuid.uuid4().hex}"
    if not storage.is_local(output_uri) or not os.access(folder, os.W_OK):
        yield None
        return
    try:
        mark.touch()
        yield str(mark)
    except OSError as error:
        raise Refused(f"output {output_uri} cannot be written: {error.strerror}; choose another output") from None
    finally:
        mark.unlink(missing_ok=True)


def _start_probe(node: str, checks: Checks, mark: str | None) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return (
        ray.remote(_probe)
        .options(num_cpus=0, max_retries=2, scheduling_strategy=there)
        .remote(checks, __version__, mark)
    )


def _probe(checks: Checks, version: str, mark: str | None) -> _Answer:
    """On a worker: what is wrong here.

    Args:
        version: of labeler, in the driver.
        mark: a file that the driver has put beside a local output.
    """
    node = ray.util.get_node_ip_address()
    here = f"on node {node}"
    checks.s3.apply()
    if version != __version__:
        problem = f"labeler {__version__} is installed {here}, and this is labeler {version}"
        return _Answer(node, f"{problem}; send it along by `labeler submit` or --working-dir, or install it there")
    if mark is not None and not os.path.exists(mark):
        problem = f"output {checks.output} is not shared: node {node} sees a different disk"
        return _Answer(node, f"{problem}; use object storage or a shared file system")
    try:
        if checks.input is not None and storage.head(checks.input) is None:
            shown = storage.redact(checks.input)
            return _Answer(node, f"input {shown} is not there {here}; all nodes must see the same storage")
        storage.check_put_if_absent(checks.output, single_writer=checks.single_writer)
        if checks.models is not None:
            checks.models.find()
    except LabelerError as error:
        return _Answer(node, str(error) if here in str(error) else f"{here}: {error}")
    return _Answer(node, versions=package_versions())

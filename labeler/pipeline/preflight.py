"""Prove from the workers, before anything is written, that input can be read and output be committed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from labeler import storage
from labeler.errors import LabelerError, Refused
from labeler.pipeline.capacity import CapacityWait
from labeler.prompts import UserModule
from labeler.runs.plan import PlannedShard, with_members
from labeler.shards.neighbors import LOOKED_AT


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
        others = f", nor are {tried - 1} others that were planned" if tried > 1 else ""
        raise Refused(f"input {storage.redact(first)} is not there{others}")
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


def preflight(
    output_uri: str,
    input_uri: str | None,
    *,
    single_writer: bool,
    patience: CapacityWait,
    s3: storage.S3Rules = storage.NO_S3_RULES,
) -> None:
    """Try storage on a worker, and on every node where a path is local: each node would mean its own disk by it.

    Args:
        input_uri: an object of the input; None where there is none left to look for.
        patience: for nodes that are slow to answer.
        s3: how buckets are read.

    Raises:
        Refused: in one line, what cannot be read, written or committed, and from where.
    """
    everywhere = storage.is_local(output_uri) or (input_uri is not None and storage.is_local(input_uri))
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]] if everywhere else [None]
    with _mark_of_driver(output_uri) as mark:
        probes = [_start_probe(node, output_uri, input_uri, single_writer, mark, s3) for node in nodes]
        gone = 0
        for probe in probes:
            try:
                problem = patience.wait(probe, "a process of each node to try storage from")
            except ray.exceptions.TaskUnschedulableError:
                gone += 1  # the node was lost just now, and is still on the list
                continue
            if problem is not None:
                raise Refused(problem)
        if gone == len(probes):
            raise Refused("all nodes of the Ray cluster are gone; check `ray status`")


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


def _start_probe(
    node: str | None,
    output_uri: str,
    input_uri: str | None,
    single_writer: bool,
    mark: str | None,
    s3: storage.S3Rules,
) -> Any:
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 2}
    if node is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_probe).options(**options).remote(output_uri, input_uri, single_writer, mark, s3)


def _probe(
    output_uri: str, input_uri: str | None, single_writer: bool, mark: str | None, s3: storage.S3Rules
) -> str | None:
    """On a worker: one line about what is wrong, or None."""
    s3.apply()
    here = f"on node {ray.util.get_node_ip_address()}"
    if mark is not None and not os.path.exists(mark):
        return f"output {output_uri} is another disk {here}; use object storage, or a file system all nodes share"
    try:
        if input_uri is not None and storage.head(input_uri) is None:
            return f"input {storage.redact(input_uri)} is not there {here}; all nodes must see the same storage"
        storage.check_put_if_absent(output_uri, single_writer=single_writer)
    except LabelerError as error:
        return str(error)
    return None
